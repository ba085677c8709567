# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_postern_global_optspecs
    string join \n c/config= h/help V/version
end

function __fish_postern_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_postern_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_postern_using_subcommand
    set -l cmd (__fish_postern_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c postern -n "__fish_postern_needs_command" -s c -l config -d 'The configuration file' -r -F
complete -c postern -n "__fish_postern_needs_command" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_needs_command" -s V -l version -d 'Print version'
complete -c postern -n "__fish_postern_needs_command" -f -a "check" -d 'Validates the configuration and prints what would listen where'
complete -c postern -n "__fish_postern_needs_command" -f -a "reference" -d 'Prints every directive with its sections, type, default and meaning'
complete -c postern -n "__fish_postern_needs_command" -f -a "import-nginx" -d 'Turns an nginx or Angie configuration of a mail proxy into ours, on standard output'
complete -c postern -n "__fish_postern_needs_command" -f -a "demo" -d 'Runs on loopback ports with a small mail store behind it, and prints what to try'
complete -c postern -n "__fish_postern_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postern -n "__fish_postern_using_subcommand check" -s c -l config -d 'The configuration file' -r -F
complete -c postern -n "__fish_postern_using_subcommand check" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand reference" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand import-nginx" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postern -n "__fish_postern_using_subcommand demo" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check reference import-nginx demo help" -f -a "check" -d 'Validates the configuration and prints what would listen where'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check reference import-nginx demo help" -f -a "reference" -d 'Prints every directive with its sections, type, default and meaning'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check reference import-nginx demo help" -f -a "import-nginx" -d 'Turns an nginx or Angie configuration of a mail proxy into ours, on standard output'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check reference import-nginx demo help" -f -a "demo" -d 'Runs on loopback ports with a small mail store behind it, and prints what to try'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check reference import-nginx demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
