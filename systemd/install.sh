#!/usr/bin/env bash
# Installs, upgrades and removes sightlog on this machine: README.md beside this file says how, and what goes where.
#   install.sh install | uninstall | wheels [DIR]        PYTHON=… and WHEELS=DIR as there
set -euo pipefail
umask 022
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
ROOT=/opt/sightlog
CURRENT=$ROOT/current
CONFIG=/etc/sightlog/config.toml
UNITS=(sightlogd.service sightlogd.socket sightlog-sensor@.service)
SERVICE=(sightlogd.service sightlogd.socket)
COMMANDS=(sightlog sightlogd)
COMPLETION=/usr/local/share/bash-completion/completions/sightlog
FREE_MB=250 # a release takes 45, building it some 60 more
# Which upgrade is under way: the release before on the first line (empty: none), the new one on the second. It is there
# from before the service is stopped until it runs again, whatever ends this script in between.
SWITCHING=$ROOT/switching

STORED_SINCE=3 # what sightlogd.cli.upgrade ends with when records were stored

if_it_ends='' # after the service was stopped: what failed when the script ends here

# shellcheck source=systemd/release.sh
. "$SOURCE/systemd/release.sh"

say() { printf '%s\n' "$*"; }
die() {
    printf 'sightlog: %s\n' "$*" >&2
    exit 1
}

# -- what has to be there ---------------------------------------------------------------------------------------------

check_machine() {
    [ "$(id -u)" = 0 ] || die "this needs root: sudo make $1"
    [ -d /run/systemd/system ] || die "systemd does not run here. Without it: README.md, \"The daemon\""
    local version
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 250 ] || die "systemd ${version:-?} is too old: 250 or newer is needed (Debian 12 has 252)"
}

check_place() {
    local path free name
    path=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    case $path in
    /root/* | /home/* | /run/user/*)
        die "the service cannot use $path: it sees no home directories. Name the system's:" \
            "make install PYTHON=/usr/bin/python3"
        ;;
    esac
    free=$(($(df --output=avail -k "$ROOT" | tail -n 1) / 1024))
    [ "$free" -ge $FREE_MB ] || die "$ROOT has $free MB free, and $FREE_MB are needed while it is built. Make room there"
    for name in "${COMMANDS[@]}"; do
        path=/usr/local/bin/$name
        if [ -e "$path" ] && [ "$(readlink "$path")" != "$CURRENT/bin/$name" ]; then
            die "$path is there already, and not of this installation. Move it away, then try again"
        fi
    done
}

# -- the machine's side of it -----------------------------------------------------------------------------------------

# Whole or as it was, whenever the power is cut.
put() {
    mkdir -p "$(dirname "$2")"
    install -m 644 "$1" "$2.new~"
    mv -f "$2.new~" "$2"
}

put_users() {
    put "$1/share/systemd/sightlog.sysusers" /etc/sysusers.d/sightlog.conf
    put "$1/share/systemd/sightlog.tmpfiles" /etc/tmpfiles.d/sightlog.conf
    systemd-sysusers /etc/sysusers.d/sightlog.conf
    systemd-tmpfiles --create /etc/tmpfiles.d/sightlog.conf
}

# The units of a release, and the release as the one that they start.
switch_to() {
    local name
    for name in "${UNITS[@]}"; do put "$1/share/systemd/$name" "/etc/systemd/system/$name"; done
    ln -sfn "$1" "$CURRENT.new~"
    mv -fT "$CURRENT.new~" "$CURRENT"
    mkdir -p /usr/local/bin "$(dirname "$COMPLETION")"
    for name in "${COMMANDS[@]}"; do ln -sfn "$CURRENT/bin/$name" "/usr/local/bin/$name"; done
    ln -sfn "$CURRENT/share/completion.bash" "$COMPLETION"
    sync -f /etc/systemd/system
    sync -f "$ROOT"
    systemctl daemon-reload
}

# The owner's stays as it is. The new one is put beside it when it says something else.
put_config() {
    mkdir -p /etc/sightlog/sensors
    if [ ! -e "$CONFIG" ]; then
        put "$1/share/config.toml" "$CONFIG"
    elif cmp -s "$1/share/config.toml" "$CONFIG"; then
        rm -f "$CONFIG.new"
    else
        put "$1/share/config.toml" "$CONFIG.new"
        say "$CONFIG is left as it is. This version's has other contents: $CONFIG.new, to compare"
    fi
}

# The steps that know the data, as the user that owns it.
data() {
    (cd / && env -i PATH="$PATH" LANG=C.UTF-8 setpriv --reuid=sightlog --regid=sightlog-readers --init-groups \
        "$1/bin/python" -I -m sightlogd.cli.upgrade "$2" --config "$CONFIG")
}

stop_service() {
    systemctl stop "${SERVICE[@]}" 2>/dev/null || [ ! -e /etc/systemd/system/sightlogd.service ] ||
        die "systemctl cannot stop sightlogd: systemctl status sightlogd. Nothing was changed"
}

start_service() {
    systemctl reset-failed "${SERVICE[@]}" 2>/dev/null || true
    systemctl start sightlogd.socket sightlogd.service 9>&- # ready when it returns: Type=notify
}

why() {
    local id
    id=$(systemctl show -p InvocationID --value sightlogd.service)
    journalctl -q -o cat -n 5 "_SYSTEMD_INVOCATION_ID=$id" 2>/dev/null | sed 's/^/  /' || true
}

# -- from one release to the next -------------------------------------------------------------------------------------

install_it() {
    local old
    check_machine install
    if [ -n "${WHEELS-}" ]; then
        [ -d "$WHEELS" ] || die "there is no folder $WHEELS. Fill it where there is network: make wheels WHEELS=$WHEELS"
        wheels=$(cd "$WHEELS" && pwd)
    fi
    check_python
    mkdir -p "$ROOT"
    only_one
    check_place
    trap ended EXIT
    trap 'exit 130' INT TERM HUP
    repair
    remove_leftovers
    build_release
    put_users "$release"
    put_config "$release"
    old=$(readlink "$CURRENT" || true)
    # A first install that failed is nothing to go back to; unless its owner has mended it since.
    [ -e "$old/started" ] || systemctl -q is-active sightlogd.service || old=''
    data "$release" check || refuse "$old"
    switch_over "$old"
    say "sightlog runs: $("$release/bin/sightlogd" --version | cut -d ' ' -f 2), in $release"
    # A sensor that is running has the files of the release it was started from.
    systemctl try-restart 'sightlog-sensor@*.service' ||
        say "a sensor did not start again: systemctl status 'sightlog-sensor@*'"
    [ -n "$old" ] || first_steps
}

only_one() {
    exec 9>"$ROOT/lock"
    flock -n 9 || die "another install or uninstall is under way. Wait for it, then try again"
}

# What this version says of the configuration or the data is above.
refuse() {
    if [ -n "$1" ]; then
        rm -rf "$release"
        die "this version was not installed, for the reason above. Nothing was changed: $(basename "$1") is left as it was"
    fi
    switch_to "$release"
    remove_old_releases "$release" "$release"
    die "installed, but not started and not enabled, for the reason above. The commands sightlog and sightlogd are there." \
        "Then run make install again"
}

switch_over() {
    local old=$1
    printf '%s\n%s\n' "$old" "$release" >"$SWITCHING"
    sync -f "$ROOT"
    if_it_ends="the service could not be stopped"
    stop_service
    if_it_ends="the database could not be copied"
    data "$release" keep || exit 1
    if_it_ends="the new version did not start"
    switch_to "$release"
    start_service || exit 1
    if_it_ends=''
    it_runs "$release"
    systemctl -q enable sightlogd.service
    remove_old_releases "$release" "${old:-$release}"
}

it_runs() {
    touch "$1/started"
    data "$1" forget
    rm "$SWITCHING"
}

ended() {
    local code=$?
    trap '' INT TERM HUP
    set +e
    if [ -n "$if_it_ends" ]; then
        say "sightlog: $if_it_ends:"
        why
        go_back
    fi
    [ -z "$scratch" ] || rm -rf "$scratch"
    [ -z "$unfinished" ] || rm -rf "$unfinished"
    exit $code
}

# The release before, its units, and the database as it was; nothing can have been acked in between: a daemon that never
# was ready has taken no record, and "undo" compares what the producers' positions say.
go_back() {
    local old new by code=0
    { read -r old; read -r new; } <"$SWITCHING"
    systemctl stop "${SERVICE[@]}"
    by=$new
    if [ -n "$old" ] && ! data "$new" --help >/dev/null 2>&1; then by=$old; fi # torn, or its Python is gone
    data "$by" undo || code=$?
    if [ "$code" = $STORED_SINCE ]; then
        say "sightlog: $(basename "$new") has changed the database and stored records since, so it stays. Look at its log:" \
            "journalctl -u sightlogd. A copy from before is in the data directory until the next install that works"
        rm -f "$SWITCHING"
        start_service
        return
    elif [ "$code" != 0 ]; then
        say "sightlog: the database could not be put back, for the reason above. Nothing was lost; sightlogd is stopped." \
            "Mend that, and run make install again"
        return
    fi
    rm -f "$SWITCHING"
    if [ -z "$old" ]; then
        systemctl -q disable "${SERVICE[@]}" 2>/dev/null
        remove_old_releases "$new" "$(readlink "$CURRENT")"
        say "sightlog: installed, but not running and not enabled. The commands sightlog and sightlogd are there"
        return
    fi
    switch_to "$old"
    rm -rf "$new"
    if start_service; then
        say "sightlog: $(basename "$old") runs again. Producers kept what they published meanwhile"
    else
        say "sightlog: $(basename "$old") is in its place again, and does not start either:"
        why
    fi
}

# An install was ended in the middle: by a power cut, or by kill -9.
repair() {
    local old new
    [ -e "$SWITCHING" ] || return 0
    say "an install was interrupted before its end:"
    { read -r old && read -r new; } <"$SWITCHING" || old='' new=''
    if [ -z "$new" ]; then # cut off while it was written: nothing was changed yet
        rm "$SWITCHING"
    elif [ "$(readlink "$CURRENT")" = "$new" ] && systemctl -q is-active sightlogd.service; then
        it_runs "$new"
    else
        set +e
        go_back
        set -e
        [ ! -e "$SWITCHING" ] || exit 1
    fi
}

first_steps() {
    local user=${SUDO_USER:-USER}
    cat <<TEXT

configuration   $CONFIG (sudo systemctl restart sightlogd)
data            /var/lib/sightlog
may publish     $(members sightlog-producers)
may read        $(members sightlog-readers)

Let somebody do both, and see a first event:
  sudo usermod -aG sightlog-producers,sightlog-readers $user    # then log in again
  sightlog publish --camera front_door --type motion
  sightlog events
The guide: $CURRENT/share/systemd/README.md
TEXT
}

members() {
    local names
    names=$(getent group "$1" | cut -d : -f 4)
    printf '%s' "${names:-nobody yet} (group $1)"
}

# -- away with it -----------------------------------------------------------------------------------------------------

uninstall() {
    local name
    check_machine uninstall
    if [ -d "$ROOT" ]; then
        only_one
        repair
    fi
    for name in $(sensors); do
        systemctl -q disable --now "$name" || true
        say "stopped and disabled: $name"
    done
    if [ -e /etc/systemd/system/sightlogd.service ]; then
        stop_service
        systemctl -q disable "${SERVICE[@]}"
    fi
    for name in "${UNITS[@]}"; do rm -f "/etc/systemd/system/$name"; done
    systemctl daemon-reload
    systemctl reset-failed "${SERVICE[@]}" 2>/dev/null || true
    for name in "${COMMANDS[@]}"; do
        if [ "$(readlink "/usr/local/bin/$name")" = "$CURRENT/bin/$name" ]; then rm "/usr/local/bin/$name"; fi
    done
    rm -f "$COMPLETION" /etc/sysusers.d/sightlog.conf /etc/tmpfiles.d/sightlog.conf
    rm -rf "$ROOT"
    cat <<TEXT
sightlog is removed. Left as they are: the data in /var/lib/sightlog, the configuration in /etc/sightlog, drop-ins in
/etc/systemd/system/sightlog*.d, users and groups. make install finds them again. To remove them for good:
  sudo rm -r /var/lib/sightlog /var/lib/private/sightlog-sensor /etc/sightlog /etc/systemd/system/sightlog*.d
  sudo userdel sightlog; sudo groupdel sightlog-producers; sudo groupdel sightlog-readers
TEXT
}

# Those that run, and those that are enabled.
sensors() {
    {
        systemctl list-units --all --plain --no-legend 'sightlog-sensor@*.service' | cut -d ' ' -f 1
        find /etc/systemd/system -name 'sightlog-sensor@?*.service' -type l -printf '%f\n'
    } | sort -u
}

case ${1-} in
install) install_it ;;
uninstall) uninstall ;;
wheels) wheels "${2:-wheels}" ;;
*) die "expected install, uninstall or wheels [DIR]" ;;
esac
