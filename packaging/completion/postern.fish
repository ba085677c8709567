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
complete -c postern -n "__fish_postern_needs_command" -f -a "try-login" -d 'Tries a login as a client of the configuration, and prints each step and what is wrong'
complete -c postern -n "__fish_postern_needs_command" -f -a "passwd" -d 'Sets the password of a user in the file of auth_file, or adds the user'
complete -c postern -n "__fish_postern_needs_command" -f -a "reference" -d 'Prints every directive with its sections, type, default and meaning'
complete -c postern -n "__fish_postern_needs_command" -f -a "import-nginx" -d 'Turns an nginx or Angie configuration of a mail proxy into ours, on standard output'
complete -c postern -n "__fish_postern_needs_command" -f -a "demo" -d 'Runs on loopback ports with a small mail store behind it, and prints what to try'
complete -c postern -n "__fish_postern_needs_command" -f -a "status" -d 'Says how the running process is; the exit status is 1 when something is wrong with it'
complete -c postern -n "__fish_postern_needs_command" -f -a "sessions" -d 'Lists the sessions, or some of them'
complete -c postern -n "__fish_postern_needs_command" -f -a "kick" -d 'Ends sessions; the exit status is 1 when there are none'
complete -c postern -n "__fish_postern_needs_command" -f -a "ban" -d 'Keeps an address or a range out from now on, and ends its sessions'
complete -c postern -n "__fish_postern_needs_command" -f -a "unban" -d 'Lets an address or a range in again; the exit status is 1 when it is not banned'
complete -c postern -n "__fish_postern_needs_command" -f -a "bans" -d 'Lists the bans'
complete -c postern -n "__fish_postern_needs_command" -f -a "reload" -d 'Reads the configuration anew, as the signal HUP does, and prints what is wrong with it'
complete -c postern -n "__fish_postern_needs_command" -f -a "stop" -d 'Ends the process at once, as the signal TERM does, and waits until it is gone'
complete -c postern -n "__fish_postern_needs_command" -f -a "drain" -d 'Lets nobody in any more, as the signal QUIT does, and waits until the process is gone'
complete -c postern -n "__fish_postern_needs_command" -f -a "log-level" -d 'Sets one level for all logs, until the next reload or restart'
complete -c postern -n "__fish_postern_needs_command" -f -a "rawlog" -d 'Writes what both sides say of some sessions into a file, without credentials'
complete -c postern -n "__fish_postern_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postern -n "__fish_postern_using_subcommand check" -s c -l config -d 'The configuration file' -r -F
complete -c postern -n "__fish_postern_using_subcommand check" -l live -d 'Looks also at ports, certificates, auth servers and backends; the exit status is 1 when one fails'
complete -c postern -n "__fish_postern_using_subcommand check" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand try-login" -l server -d '[server NAME]; needed where there are several' -r
complete -c postern -n "__fish_postern_using_subcommand try-login" -s c -l config -d 'The configuration file' -r -F
complete -c postern -n "__fish_postern_using_subcommand try-login" -l password-stdin -d 'Reads the password from standard input, instead of asking for it at the terminal'
complete -c postern -n "__fish_postern_using_subcommand try-login" -l json -d 'Prints JSON: a line for each step, and one for what it came to'
complete -c postern -n "__fish_postern_using_subcommand try-login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postern -n "__fish_postern_using_subcommand passwd" -l file -d 'The file of users; without it, the only auth_file of the configuration' -r -F
complete -c postern -n "__fish_postern_using_subcommand passwd" -s c -l config -d 'The configuration file' -r -F
complete -c postern -n "__fish_postern_using_subcommand passwd" -l delete -d 'Takes the user out'
complete -c postern -n "__fish_postern_using_subcommand passwd" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postern -n "__fish_postern_using_subcommand reference" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand import-nginx" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c postern -n "__fish_postern_using_subcommand demo" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand status" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand status" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand status" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand status" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand sessions" -l user -d 'Those of this login' -r
complete -c postern -n "__fish_postern_using_subcommand sessions" -l address -d 'Those whose client has this address, or one of this range' -r
complete -c postern -n "__fish_postern_using_subcommand sessions" -l server -d 'Those of [server NAME]' -r
complete -c postern -n "__fish_postern_using_subcommand sessions" -l backend -d 'Those with a backend at this address, with or without its port' -r
complete -c postern -n "__fish_postern_using_subcommand sessions" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand sessions" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand sessions" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand sessions" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand kick" -l user -d 'Those of this login' -r
complete -c postern -n "__fish_postern_using_subcommand kick" -l address -d 'Those whose client has this address, or one of this range' -r
complete -c postern -n "__fish_postern_using_subcommand kick" -l server -d 'Those of [server NAME]' -r
complete -c postern -n "__fish_postern_using_subcommand kick" -l backend -d 'Those with a backend at this address, with or without its port' -r
complete -c postern -n "__fish_postern_using_subcommand kick" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand kick" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand kick" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand kick" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand ban" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand ban" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand ban" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand ban" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand unban" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand unban" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand unban" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand unban" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand bans" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand bans" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand bans" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand bans" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand reload" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand reload" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand reload" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand reload" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand stop" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand stop" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand stop" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand stop" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand drain" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand drain" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand drain" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand drain" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand log-level" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand log-level" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand log-level" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand log-level" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and not __fish_seen_subcommand_from on off help" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and not __fish_seen_subcommand_from on off help" -f -a "on" -d 'Begins one. Without content a relay shows commands and answers by their words alone'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and not __fish_seen_subcommand_from on off help" -f -a "off" -d 'Ends the one that was begun for these sessions, or all'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and not __fish_seen_subcommand_from on off help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l user -d 'Those of this login' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l address -d 'Those whose client has this address, or one of this range' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l server -d 'Those of [server NAME]' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l backend -d 'Those with a backend at this address, with or without its port' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l to -d 'The file, which must not be there yet' -r -F
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l size -d 'Most bytes of the file, 10 MiB if nothing is said' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l time -d 'Most seconds that it goes on, an hour if nothing is said' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l with-content -d 'Everything that passes is shown, messages too'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from on" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -l user -d 'Those of this login' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -l address -d 'Those whose client has this address, or one of this range' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -l server -d 'Those of [server NAME]' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -l backend -d 'Those with a backend at this address, with or without its port' -r
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -s c -l config -d 'The configuration file that says where the control socket is' -r -F
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -l control -d 'The control socket itself' -r -F
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -l json -d 'Prints JSON'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from off" -s h -l help -d 'Print help'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from help" -f -a "on" -d 'Begins one. Without content a relay shows commands and answers by their words alone'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from help" -f -a "off" -d 'Ends the one that was begun for these sessions, or all'
complete -c postern -n "__fish_postern_using_subcommand rawlog; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "check" -d 'Validates the configuration and prints what would listen where'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "try-login" -d 'Tries a login as a client of the configuration, and prints each step and what is wrong'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "passwd" -d 'Sets the password of a user in the file of auth_file, or adds the user'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "reference" -d 'Prints every directive with its sections, type, default and meaning'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "import-nginx" -d 'Turns an nginx or Angie configuration of a mail proxy into ours, on standard output'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "demo" -d 'Runs on loopback ports with a small mail store behind it, and prints what to try'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "status" -d 'Says how the running process is; the exit status is 1 when something is wrong with it'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "sessions" -d 'Lists the sessions, or some of them'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "kick" -d 'Ends sessions; the exit status is 1 when there are none'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "ban" -d 'Keeps an address or a range out from now on, and ends its sessions'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "unban" -d 'Lets an address or a range in again; the exit status is 1 when it is not banned'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "bans" -d 'Lists the bans'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "reload" -d 'Reads the configuration anew, as the signal HUP does, and prints what is wrong with it'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "stop" -d 'Ends the process at once, as the signal TERM does, and waits until it is gone'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "drain" -d 'Lets nobody in any more, as the signal QUIT does, and waits until the process is gone'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "log-level" -d 'Sets one level for all logs, until the next reload or restart'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "rawlog" -d 'Writes what both sides say of some sessions into a file, without credentials'
complete -c postern -n "__fish_postern_using_subcommand help; and not __fish_seen_subcommand_from check try-login passwd reference import-nginx demo status sessions kick ban unban bans reload stop drain log-level rawlog help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c postern -n "__fish_postern_using_subcommand help; and __fish_seen_subcommand_from rawlog" -f -a "on" -d 'Begins one. Without content a relay shows commands and answers by their words alone'
complete -c postern -n "__fish_postern_using_subcommand help; and __fish_seen_subcommand_from rawlog" -f -a "off" -d 'Ends the one that was begun for these sessions, or all'
