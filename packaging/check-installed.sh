#!/usr/bin/env bash
# Proves the packages of packaging/build.sh: linters first, then their whole life in Debian 12 and 13,
# really booted (packaging/check/life). Needs root and the right to make namespaces. Trees are kept in
# /var/cache/postern-trees, to be deleted at will. No system with rpm as its own packages is tried.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

packages=target/packages
releases=(bookworm trixie)
# What a tree has besides a minimal Debian: the mail server behind the proxy, and what reads its logs.
in_tree=systemd-sysv,dovecot-imapd,dovecot-pop3d,postfix,ssl-cert,logrotate,openssl,python3,fail2ban,python3-systemd,iproute2,rpm
needed=(lintian rpm rpmlint mandoc systemd mmdebstrap util-linux)

if ((EUID != 0)); then
    echo "packaging/check-installed.sh: a machine can only be booted by root" >&2
    exit 1
fi
missing=()
for package in "${needed[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "== installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {
    local what=$1
    shift
    "$@" >"$work/out" 2>&1 || { echo "FAILED: $what"; cat "$work/out"; exit 1; }
    echo "ok: $what"
}

one_of_each() {
    local pattern
    for pattern in postern_*.deb postern-dbgsym_*.deb postern_*.changes postern-*.rpm; do
        [[ $(find "$packages" -maxdepth 1 -name "$pattern" | wc -l) == 1 ]] ||
            { echo "$packages/$pattern is not one file: delete $packages and run packaging/build.sh"; return 1; }
    done
}

rpm_has_what_it_must() {
    local rpm=$1 wanted
    { rpm -qplv --scripts --requires "$rpm"; rpm -qp --configfiles "$rpm"; } >"$work/rpm"
    cat "$work/rpm"
    # Permissions, owner and name; what a script does; what it needs.
    while read -r wanted; do
        grep -Eq -- "$wanted" "$work/rpm" || { echo "missing: $wanted"; return 1; }
    done <<'END'
^-rwxr-xr-x +1 root +root .* /usr/sbin/postern$
^-rw-r--r-- +1 root +root .* /etc/postern/postern.ini$
^/etc/postern/postern.ini$
^/etc/logrotate.d/postern$
^/etc/fail2ban/filter.d/postern.conf$
^/etc/fail2ban/jail.d/postern.conf$
^-rw-r--r-- .* /usr/lib/systemd/system/postern.service$
^-rw-r--r-- .* /usr/lib/sysusers.d/postern.conf$
^-rw-r--r-- .* /usr/share/man/man5/postern.ini.5.gz$
^-rw-r--r-- .* /usr/share/man/man8/postern.8.gz$
^-rw-r--r-- .* /usr/share/licenses/postern/copyright$
^-rw-r--r-- .* /usr/share/doc/postern/examples/postern.ini$
useradd -r -g postern .* postern$
systemctl --no-reload disable --now postern.service
systemctl try-restart postern.service
libssl.so.3\(\)\(64bit\)$
libc.so.6\(GLIBC_2.34\)\(64bit\)$
: shadow-utils$
END
}

copyright_names_what_is_linked() {
    local name
    dpkg-deb --fsys-tarfile "$packages"/postern_*.deb | tar -xO ./usr/share/doc/postern/copyright >"$work/copyright"
    for name in rustls aws-lc-sys openssl tokio; do
        grep -q "^  $name [0-9.]*: " "$work/copyright" && grep -Eq "^Of (.*, )?$name(,|:)" "$work/copyright" ||
            { echo "missing: $name"; return 1; }
    done
}

# The tree is made beside its name, so that half a one is never used.
tree_of() {
    local release=$1 tree
    tree=/var/cache/postern-trees/$release-$(cksum <<<"$in_tree" | cut -d' ' -f1)
    if [[ ! -d $tree ]]; then
        mkdir -p "${tree%/*}"
        rm -rf "$tree.new"
        # The lists of packages stay: apt in the machine looks there for what ours needs.
        mmdebstrap --quiet --variant=apt --include="$in_tree" --skip=cleanup/apt \
            "$release" "$tree.new" http://deb.debian.org/debian >"$work/$release.tree" 2>&1 ||
            { echo "FAILED: $release: no tree" >&2; cat "$work/$release.tree" >&2; exit 1; }
        mv "$tree.new" "$tree"
    fi
    echo "$tree"
}

check "one package of each kind" one_of_each
check "lintian" lintian --fail-on error,warning "$packages"/postern_*.changes
check "rpmlint" rpmlint --rpmlintrc packaging/rpm/rpmlintrc "$packages"/postern-*.rpm
check "the rpm has what it must have" rpm_has_what_it_must "$packages"/postern-*.rpm
check "the licences of what is linked" copyright_names_what_is_linked
check "mandoc: the pages" mandoc -T lint -W warning packaging/man/postern.8 packaging/man/postern.ini.5
check "systemd-analyze: 1.5 or better" \
    systemd-analyze security --offline=true --threshold=15 packaging/systemd/postern.service

next=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)+next
check "a next version is built, to upgrade to" packaging/build.sh "$next" "$packages/next"

# Each release beside the other; its lines are printed together, and all of them are waited for.
exec 9>/var/lock/postern-trees
flock 9
running=()
for release in "${releases[@]}"; do
    (
        exec 9>&-
        tree=$(tree_of "$release")
        packaging/check/life "$tree" "$packages"
    ) >"$work/$release" 2>&1 &
    running+=($!)
done
failed=0
for index in "${!releases[@]}"; do
    wait "${running[index]}" || failed=1
    cat "$work/${releases[index]}"
done
exit "$failed"
