#!/usr/bin/env bash
# Builds postern_VERSION_ARCH.deb, its -dbgsym and postern-VERSION-1.ARCH.rpm into target/packages,
# from one release build.
#
#   packaging/build.sh                  the version of Cargo.toml
#   packaging/build.sh VERSION FOLDER   another version, to another folder
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:$HOME/.cargo/bin"

version=${1:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
out=$(realpath -m "${2:-target/packages}")

missing=()
for package in debhelper dpkg-dev rpm python3 gcc pkg-config libssl-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    if ((EUID != 0)); then
        echo "packaging/build.sh: missing; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

cargo build --locked --release --bin postern

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
packaging/licences >"$work/copyright"

# What is installed, and where: under $root.
put() { install -D -m "$1" "$2" "$root/$3"; }
both() {
    put 0755 target/release/postern usr/sbin/postern
    put 0644 packaging/postern.ini etc/postern/postern.ini
    put 0644 packaging/fail2ban/filter.conf etc/fail2ban/filter.d/postern.conf
    put 0644 packaging/fail2ban/jail.conf etc/fail2ban/jail.d/postern.conf
    put 0644 packaging/man/postern.8 usr/share/man/man8/postern.8
    put 0644 packaging/man/postern.ini.5 usr/share/man/man5/postern.ini.5
    put 0644 packaging/completion/postern.bash usr/share/bash-completion/completions/postern
    put 0644 packaging/completion/postern.fish usr/share/fish/vendor_completions.d/postern.fish
    put 0644 README.md usr/share/doc/postern/README.md
    put 0644 etc/postern.ini usr/share/doc/postern/examples/postern.ini
    for example in packaging/examples/*; do
        put "$(stat -c %a "$example")" "$example" "usr/share/doc/postern/examples/${example##*/}"
    done
}

# Shows what a tool said only when it fails.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; } }

echo "== rpm"
root=$work/rpm
both
put 0644 CHANGELOG.md usr/share/doc/postern/CHANGELOG.md
put 0644 packaging/completion/_postern usr/share/zsh/site-functions/_postern
put 0644 packaging/systemd/postern.service usr/lib/systemd/system/postern.service
put 0644 packaging/systemd/postern.sysusers usr/lib/sysusers.d/postern.conf
put 0644 packaging/logrotate/postern etc/logrotate.d/postern
put 0644 "$work/copyright" usr/share/licenses/postern/copyright
put 0644 LICENSE-APACHE usr/share/licenses/postern/LICENSE-APACHE
put 0644 LICENSE-MIT usr/share/licenses/postern/LICENSE-MIT
quietly rpmbuild -bb --define "_topdir $work/rpmbuild" --define "_rpmdir $out" \
    --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "package_version $version" --define "layout $root" packaging/rpm/postern.spec

echo "== deb"
root=$work/deb/root
both
put 0644 packaging/completion/_postern usr/share/zsh/vendor-completions/_postern
debian=$work/deb/debian
cp -r packaging/deb "$debian"
cp packaging/systemd/postern.service packaging/systemd/postern.sysusers "$debian"
cp packaging/logrotate/postern "$debian/postern.logrotate"
cp packaging/logcheck/postern "$debian/postern.logcheck.ignore.server"
cp "$work/copyright" "$debian/copyright"
cat >"$debian/changelog" <<END
postern ($version) unstable; urgency=medium

  * What is new stands in the CHANGELOG.md of the source.

 -- $(sed -n 's/^Maintainer: //p' packaging/deb/control)  $(date -R -r CHANGELOG.md)
END
(cd "$work/deb" && quietly dpkg-buildpackage -b -us -uc)
cp "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo "$out"
ls -l "$out"
