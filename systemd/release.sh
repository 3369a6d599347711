# shellcheck shell=bash
# A release: everything of one version, in a folder of its own. For install.sh, whose PYTHON, SOURCE and ROOT it takes.

wheels='' # a folder to take packages from; empty: the network
scratch='' unfinished='' # to be removed, however it ends

check_python() {
    command -v "$PYTHON" >/dev/null || die "there is no $PYTHON: apt install python3 python3-venv"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$PYTHON" --version) is too old: 3.11 or newer is needed, e.g. make install PYTHON=/usr/bin/python3.12"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON cannot make virtual environments: apt install python3-venv"
}

# Where packages come from is this machine's affair: a mirror, piwheels, a proxy. Where they go is not: a target, user =
# true or require-hashes in a pip.conf, or in the environment, would have them elsewhere, or nowhere.
own_pip() {
    local pip=$1 settings='' section key value name
    local -A from=()
    if [ -z "$wheels" ]; then
        settings=$("$pip" config list) || die "pip cannot read its settings: $pip config debug names the files"
    fi
    for section in global install :env:; do # the later ones beat those before
        while IFS='=' read -r key value; do
            name=${key#"$section".}
            case $name in
            index-url | extra-index-url | find-links | no-index | trusted-host | proxy | cert | client-cert | \
                default-timeout | timeout | retries)
                value=${value#\'} value=${value%\'}
                from[$name]=${value//'\n'/ }
                ;;
            esac
        done <<<"$settings"
    done
    for name in "${!PIP_@}"; do unset "$name"; done
    for name in "${!from[@]}"; do
        key=${name^^}
        export "PIP_${key//-/_}=${from[$name]}"
    done
    if [ -n "$wheels" ]; then
        ln -s "$wheels" "$scratch/wheels" # pip takes a space for the end of a path
        export PIP_NO_INDEX=1 PIP_FIND_LINKS=$scratch/wheels
    fi
    export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_QUIET=1
}

# The wheel of this source in $scratch/product, made of a copy: nothing is left in the checkout.
build_wheel() {
    mkdir "$scratch/source" "$scratch/product"
    tar -C "$SOURCE" -c --exclude='__pycache__' --exclude='*.egg-info' \
        clients daemon pyproject.toml README.md LICENSE | tar -C "$scratch/source" -x --no-same-owner
    # Without hashes: a 32-bit Raspberry Pi OS takes wheels from an index of its own.
    sed -E 's/ *\\$//; /^ /d' "$SOURCE/requirements.lock" >"$scratch/pins"
    "$1" wheel --no-deps -w "$scratch/product" "$scratch/source" || no_wheels "cannot build sightlog"
}

make_scratch() {
    scratch=$(mktemp -d "$1/build.XXXXXX")
    export TMPDIR=$scratch # /tmp may be in memory
    "$PYTHON" -m venv "$scratch/venv"
    own_pip "$scratch/venv/bin/pip"
}

no_wheels() {
    if [ -n "$wheels" ]; then
        die "$1: pip says why above. $wheels has to have what \"make wheels\" puts there, for this kind of machine and Python"
    fi
    die "$1: pip says why above. Without network: make wheels, in the guide"
}

# Its path is then in $release. Until the end it is not whole, and the next run removes it.
build_release() {
    local wheel version
    say "building a new release; on a Raspberry Pi that takes some minutes"
    make_scratch "$ROOT"
    build_wheel "$scratch/venv/bin/pip"
    wheel=$(echo "$scratch"/product/sightlog-*.whl)
    version=$(basename "$wheel" | cut -d - -f 2)
    release=$ROOT/releases/$version-$(date +%Y%m%dT%H%M%S)
    mkdir -p "$ROOT/releases"
    unfinished=$release
    "$PYTHON" -m venv --without-pip "$release"
    "$scratch/venv/bin/pip" --python "$release/bin/python" install -c "$scratch/pins" "${wheel}[daemon,completion]" ||
        no_wheels "cannot install what sightlog needs"
    mkdir -p "$release/share/systemd"
    cp "$wheel" "$SOURCE/config.toml" "$release/share/"
    cp -R "$SOURCE/systemd/." "$release/share/systemd/"
    "$release/bin/sightlog" completion bash >"$release/share/completion.bash"
    chmod -R u=rwX,go=rX "$release/share" # the checkout may be its owner's alone
    sync -f "$release" # a power cut must not leave the names of files without what is in them
    touch "$release/whole"
    sync -f "$release"
    unfinished=''
    rm -rf "$scratch"
}

remove_leftovers() {
    local path
    rm -rf "$ROOT"/build.*
    for path in "$ROOT"/releases/*; do
        if [ -d "$path" ] && [ ! -e "$path/whole" ]; then rm -rf "$path"; fi
    done
}

# All but the current release and the one before it.
remove_old_releases() {
    local path
    for path in "$ROOT"/releases/*; do
        if [ "$path" != "$1" ] && [ "$path" != "$2" ]; then rm -rf "$path"; fi
    done
}

wheels() {
    local target
    check_python
    mkdir -p "$1"
    target=$(cd "$1" && pwd)
    trap 'rm -rf "$scratch"' EXIT
    make_scratch "${TMPDIR:-/tmp}"
    build_wheel "$scratch/venv/bin/pip"
    "$scratch/venv/bin/pip" wheel -w "$target" -c "$scratch/pins" \
        "$(echo "$scratch"/product/sightlog-*.whl)[daemon,completion]" setuptools ||
        no_wheels "cannot get what sightlog needs"
    rm -f "$target"/sightlog-*.whl # that is built of the source where it is installed
    say "$target has what an install needs: sudo make install WHEELS=$target, on this kind of machine and Python"
}
