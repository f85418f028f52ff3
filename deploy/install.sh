#!/bin/sh
# Installs geophone as a systemd service on this host, or takes it off again. Run again it changes only what differs.
#
#   sh deploy/install.sh --binary target/release/geophone
#   sh deploy/install.sh --url https://example.com/geophone-0.1.0 --sha256 HEX
#   sh deploy/install.sh --uninstall [--purge]
set -eu
# Others read settings and rules, whatever the administrator's own habit is.
umask 022

usage() {
    cat <<'END'
usage: install.sh --binary FILE | --url URL --sha256 HEX  [options]
       install.sh --uninstall [--purge]

  --binary FILE   the program, as `cargo build --release -p agent` makes it
  --url URL       or where it is fetched from; https only
  --sha256 HEX    what its bytes must come to
  --config FILE   settings to begin with; those that are there already stay
  --root DIR      install below DIR, for an image: nothing is started, no user is made
  --no-start      enable the service, do not start it
  --uninstall     stop and remove it; settings and store stay, unless --purge
END
}

here=$(cd "$(dirname "$0")" && pwd)
binary='' url='' sha256='' config='' root='' start=yes mode=install purge=no
fetched=''

say() { printf 'geophone: %s\n' "$*"; }
fail() {
    printf 'geophone: %s\n' "$*" >&2
    exit 1
}
# The value of an option.
value() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then
        fail "$1 needs a value; see --help"
    fi
    printf '%s' "$2"
}

while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$(value "$@"); shift ;;
        --url) url=$(value "$@"); shift ;;
        --sha256) sha256=$(value "$@"); shift ;;
        --config) config=$(value "$@"); shift ;;
        --root) root=$(value "$@"); shift ;;
        --no-start) start=no ;;
        --uninstall) mode=uninstall ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) fail "unknown option: $1; see --help" ;;
    esac
    shift
done

program=$root/usr/local/bin/geophone
settings=$root/etc/geophone/geophone.yaml
unit=$root/etc/systemd/system/geophone.service
rules=$root/etc/geophone/rules
live=no
if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || fail "run it as root: sudo sh $0"
    [ -d /run/systemd/system ] || fail "systemd does not run here; run \`geophone run\` by what does, or install below --root DIR"
    live=yes
fi

# Puts $1 at $2 with mode $3 unless it is there already. True if it was not.
put() {
    if [ -f "$2" ] && cmp -s "$1" "$2"; then
        return 1
    fi
    mkdir -p "$(dirname "$2")"
    # Beside it first, so that no half a file is ever there, and a running program is left alone.
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    mv "$2.new" "$2"
    say "wrote $2"
}

cleanup() { [ -z "$fetched" ] || rm -f "$fetched"; }
trap cleanup EXIT

fetch() {
    case $url in
        https://*) ;;
        *) fail "--url $url: only https" ;;
    esac
    [ -n "$sha256" ] || fail "--url needs --sha256: what is fetched is run as a service"
    # Not in /tmp, where nothing may be run on many hosts.
    mkdir -p "$(dirname "$program")"
    fetched=$(mktemp "$program.XXXXXX")
    curl --fail --silent --show-error --location --proto '=https' --output "$fetched" "$url" || fail "cannot fetch $url"
    chmod 755 "$fetched"
    binary=$fetched
}

install() {
    [ -z "$url" ] || fetch
    [ -n "$binary" ] || fail "--binary or --url is needed; see --help"
    [ -f "$binary" ] || fail "--binary $binary: no such file; build it: cargo build --release -p agent"
    if [ -n "$sha256" ]; then
        [ "$(sha256sum <"$binary" | cut -d ' ' -f 1)" = "$sha256" ] || fail "${url:-$binary}: not the bytes of --sha256"
    fi
    [ -z "$config" ] || [ -f "$config" ] || fail "--config $config: no such file"
    # All that can be wrong is found before anything is changed.
    "$binary" --version >/dev/null 2>&1 || fail "$binary does not run here: is it executable, and of this architecture ($(uname -m))?"
    for file in "$settings" "$config"; do
        if [ -n "$file" ] && [ -e "$file" ]; then
            "$binary" config validate "$file" >/dev/null || fail "this geophone refuses $file: nothing was changed"
        fi
    done
    changed=no
    if put "$binary" "$program" 755; then changed=yes; fi
    if [ ! -e "$settings" ]; then
        if [ -n "$config" ]; then
            put "$config" "$settings" 644
        else
            mkdir -p "$(dirname "$settings")"
            # What all hosts have in common; `geophone config default` prints everything.
            printf '# geophone config default prints every setting\nrules:\n  files: [/etc/geophone/rules]\n' >"$settings"
            chmod 644 "$settings"
            say "wrote $settings"
        fi
        changed=yes
    fi
    mkdir -p "$rules"
    for file in "$here"/../docs/rules/*.yaml; do
        [ -f "$file" ] || continue
        if put "$file" "$rules/$(basename "$file")" 644; then changed=yes; fi
    done
    if put "$here/systemd/geophone.service" "$unit" 644; then changed=yes; fi
    if [ "$live" = no ]; then
        say "installed below $root; a user geophone and \`systemctl enable geophone\` are still to be had there"
        return
    fi
    # Some distributions make no group with a user; the unit names one.
    getent group geophone >/dev/null || groupadd --system geophone
    if ! getent passwd geophone >/dev/null; then
        useradd --system --gid geophone --no-create-home --home-dir /var/lib/geophone --shell /usr/sbin/nologin geophone
        say "made the user geophone"
    fi
    systemctl daemon-reload
    systemctl enable --quiet geophone.service
    if [ "$start" = no ]; then
        say "enabled, not started"
    elif [ "$changed" = yes ] || ! systemctl is-active --quiet geophone.service; then
        # One that has failed too often would not be started at all.
        systemctl reset-failed geophone.service 2>/dev/null || true
        # It comes back when the agent has told that it is ready.
        systemctl restart geophone.service || fail "it does not start: journalctl -u geophone says why"
        say "runs; \`geophone top\` shows what it sees, \`geophone check\` (as root) what this kernel can do"
    else
        say "nothing has changed"
    fi
}

uninstall() {
    if [ "$live" = yes ] && [ -e "$unit" ]; then
        systemctl disable --quiet --now geophone.service || true
    fi
    for file in "$unit" "$program"; do
        [ -e "$file" ] || continue
        rm -f "$file"
        say "removed $file"
    done
    if [ "$purge" = yes ]; then
        rm -rf "$root/etc/geophone" "$root/var/lib/geophone" "$root/var/cache/geophone"
        say "removed settings, store and cache"
    elif [ -e "$settings" ]; then
        say "$root/etc/geophone and $root/var/lib/geophone are left; --purge removes them"
    fi
    if [ "$live" = yes ]; then
        systemctl daemon-reload
        systemctl reset-failed geophone.service 2>/dev/null || true
        if [ "$purge" = yes ] && getent passwd geophone >/dev/null; then
            userdel geophone
            # Where it does not go with its user.
            if getent group geophone >/dev/null; then groupdel geophone; fi
            say "removed the user geophone"
        fi
    fi
}

$mode
