#!/usr/bin/env bash
# Makes .venv hold what VMStack needs: `setup.sh runtime` to run it, `setup.sh dev` to test it too,
# with a hypervisor, guests and a database server to test on.
# A stamp remembers for which requirements, Python and libvirt headers that was done last, so a
# second start takes no time. PYTHON=… chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

set_name=${1:-runtime}
case $set_name in
    runtime | dev) ;;
    *) echo "setup: '$set_name' is no set; say runtime or dev" >&2; exit 2 ;;
esac

# Nothing of an activated environment, or of how its owner likes pip, may divert what follows.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

venv=.venv
python=$venv/bin/python
os_packages="libvirt-dev pkg-config gcc python3-dev"
lab_packages="libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils"
lab_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vmstack-lab  # as in tests/lab/guest.py
log=$(mktemp "${TMPDIR:-/tmp}/vmstack-setup.XXXXXX")

say() { echo "setup: $*" >&2; }

give_up() {
    say "$*"
    exit 1
}

# Two makes at once wait for each other; the checkout itself is the lock.
if command -v flock > /dev/null; then
    exec 9< .
    flock 9
fi

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then
            # The interpreter below an activated environment: that one may be deleted any day.
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
    return 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get > /dev/null || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo && sudo -n true; } > /dev/null 2>&1
}

apt_install() {
    local install="apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300"
    # Known package lists usually do; a fresh machine has none, an old one has stale ones.
    as_root env DEBIAN_FRONTEND=noninteractive $install "$@" >> "$log" 2>&1 && return
    as_root apt-get update -q >> "$log" 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive $install "$@" >> "$log" 2>&1
}

# Can libvirt-python be compiled for this interpreter?
headers() {
    pkg-config --exists libvirt 2> /dev/null && command -v gcc > /dev/null &&
        "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2> /dev/null
}

# Is there what the tests of the real hypervisor start?
lab_packages_here() {
    local program
    for program in libvirtd qemu-system-x86_64 qemu-img; do
        PATH=$PATH:/usr/sbin:/sbin command -v $program > /dev/null || return 1
    done
    [ -f /usr/share/libvirt/schemas/domain.rng ]
}

# Are there the programs of a database server, where tests/postgres.py looks for them?
postgres_here() {
    compgen -G "/usr/lib/postgresql/*/bin/initdb" > /dev/null || command -v initdb > /dev/null
}

lab_guest_here() { compgen -G "$lab_cache/parts-*/vmlinuz" > /dev/null; }

# What the stamp of a set says when that set is in .venv.
key() {
    local with_libvirt=no
    if headers "$python"; then with_libvirt=yes; fi
    echo "python $(version_of "$python") libvirt $with_libvirt"
    sha256sum requirements.txt requirements-offline.txt
    if [ "$1" != dev ]; then return; fi
    sha256sum requirements-dev.txt
}

stamp=$venv/.stamp-$set_name

up_to_date() {
    [ -f "$stamp" ] && new_enough "$python" &&
        { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$python")" ]; } &&
        [ "$(key "$set_name")" = "$(cat "$stamp")" ]
}

make_venv() {
    local base version
    if ! base=$(find_python) && [ -z "${PYTHON:-}" ] && may_install; then
        say "installing Python …"
        apt_install python3 python3-venv || true
        base=$(find_python) || true
    fi
    [ -n "$base" ] || give_up "no Python 3.11 or newer found (looked for ${PYTHON:-python3 and" \
        "python3.11 to python3.14}); install one, or name it with PYTHON=/path/to/python3"
    version=$(version_of "$base")
    if new_enough "$python" && [ "$(version_of "$python")" = "$version" ] &&
        "$python" -m pip --version > /dev/null 2>&1; then
        return
    fi
    if ! "$base" -c 'import venv; from ensurepip import bootstrap' 2> /dev/null; then
        local package=python$version-venv
        may_install || give_up "Python $version cannot make virtual environments;" \
            "apt install $package as root, to drive a hypervisor $os_packages too, and start again"
        say "installing $package …"
        apt_install "$package" || { tail -n 20 "$log" >&2; give_up "apt could not install" \
            "$package (its last words are above); install it and start again"; }
    fi
    rm -rf "$venv"
    "$base" -m venv "$venv" >> "$log" 2>&1 || { tail -n 20 "$log" >&2
        give_up "$base could not make $venv (its last words are above)"; }
}

offer_headers() {
    headers "$python" && return
    local packages=$os_packages
    case $("$python" -c 'import sys; print(sys._base_executable)') in
        /usr/bin/python3.*) packages+=" python$(version_of "$python")-dev" ;;
    esac
    if may_install; then
        say "installing libvirt's headers and a compiler ($os_packages) …"
        apt_install $packages || true
        headers "$python" && return
        tail -n 5 "$log" >&2
        say "that failed, so libvirt-python is left out; replay, reports and tests do without." \
            "To drive a hypervisor install $os_packages and start again."
    else
        say "libvirt's headers are not here, so libvirt-python is left out; replay, reports and" \
            "tests do without. To drive a hypervisor: apt install $os_packages, then start again."
    fi
}

# What test guests are made of, unpacked and not installed: this machine boots something else.
fetch_guest() {
    local here failed=0
    mkdir -p "$lab_cache" && here=$(mktemp -d "$lab_cache/fetch.XXXXXX") || return
    (
        set -e
        cd "$here"
        kernel=$(apt-cache depends linux-image-cloud-amd64 |
            sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
        apt-get download -q "${kernel:-linux-image-cloud-amd64}" busybox-static
        for package in *.deb; do dpkg-deb -x "$package" all; done
        mkdir parts
        mv all/boot/vmlinuz-* parts/vmlinuz
        find all -path '*/bin/busybox' -exec mv {} parts/ \;
        find all -path '*/lib/modules/*' -name '*.ko*' -exec mv -t parts {} +
        test -x parts/busybox
        mv -T parts "$lab_cache/parts-${kernel#linux-image-}"
    ) >> "$log" 2>&1 &
    wait $! || failed=$?  # in the background, since a tested command goes on after errors
    rm -rf "$here"
    return $failed
}

offer_lab() {
    local sentence="the tests of the real hypervisor fail, or are left out with \
VMSTACK_TESTS_WITHOUT_LIBVIRT=1"
    if ! lab_packages_here; then
        if ! may_install; then
            say "$lab_packages are not all here, so $sentence. To have them: apt install" \
                "$lab_packages, then start again."
            return
        fi
        say "installing a hypervisor to test on ($lab_packages) …"
        if ! apt_install $lab_packages || ! lab_packages_here; then
            tail -n 5 "$log" >&2
            say "that failed, so $sentence. Install $lab_packages and start again."
            return
        fi
    fi
    if ! lab_guest_here; then
        say "fetching a kernel and busybox for guests to test with, into $lab_cache …"
        if ! fetch_guest && ! { may_install && as_root apt-get update -q >> "$log" 2>&1 &&
            fetch_guest; }; then
            tail -n 5 "$log" >&2
            say "that failed, so $sentence. It takes Debian's linux-image-cloud-amd64 and" \
                "busybox-static with \`apt-get download\`; see that it finds them and start again."
        fi
    fi
}

# The programs, and no server that runs: every test starts one of its own. What the package is told
# for that is taken back, so that whoever installs another server gets what Debian gives.
install_postgres() {
    local conf=/etc/postgresql-common/createcluster.conf failed=0
    apt_install postgresql-common || return
    as_root cp -p $conf $conf.vmstack || return
    as_root sed -i -e '/^#\? *create_main_cluster/d' -e '$a create_main_cluster = false' $conf
    apt_install postgresql || failed=$?
    as_root mv $conf.vmstack $conf
    return $failed
}

offer_postgres() {
    local sentence="the tests of the PostgreSQL store will fail, all others do without"
    if postgres_here; then return; fi
    if ! may_install; then
        say "PostgreSQL's server is not here, so $sentence. To have it: apt install postgresql," \
            "then start again."
        return
    fi
    say "installing PostgreSQL to test on, without starting it …"
    if ! install_postgres || ! postgres_here; then
        tail -n 5 "$log" >&2
        say "that failed, so $sentence. Install postgresql and start again."
    fi
}

pip_install() {
    "$python" -m pip install --quiet --disable-pip-version-check --no-input "$@" >> "$log" 2>&1
}

install() {
    local wanted=() offline=(-r requirements-offline.txt) count started=$SECONDS
    if [ "$set_name" = dev ]; then offline=(-r requirements-dev.txt); fi
    wanted=("${offline[@]}")
    if headers "$python"; then wanted=(-r requirements.txt "${offline[@]}"); fi
    if [ "$set_name" = runtime ]; then wanted=("${wanted[@]:0:2}"); fi
    count=$(cat requirements-offline.txt ${wanted[*]//-r/} | grep -E '^[a-zA-Z]' | sort -u | wc -l)
    say "installing $count packages into $venv (a minute or two the first time) …"
    if ! pip_install "${wanted[@]}"; then
        if [ "${wanted[*]}" = "${offline[*]}" ] || ! pip_install "${offline[@]}"; then
            tail -n 20 "$log" >&2
            give_up "pip could not install ${wanted[*]} (its last words are above," \
                "all of them in $log); check the network and pip's index, then start again"
        fi
        say "libvirt-python could not be built ($log says why) and is left out;" \
            "replay, reports and tests do without"
    fi
    say "$venv is ready ($((SECONDS - started)) s)"
}

if ! up_to_date; then
    make_venv
    rm -f "$stamp"
    offer_headers
    install
    key "$set_name" > "$stamp"
    # the larger has the smaller
    if [ "$set_name" = dev ]; then key runtime > $venv/.stamp-runtime; fi
fi
# Not in the stamp: what could not be had yesterday is tried again.
if [ "$set_name" = dev ] && [ "${VMSTACK_TESTS_WITHOUT_LIBVIRT:-}" != 1 ]; then offer_lab; fi
if [ "$set_name" = dev ]; then offer_postgres; fi
rm -f "$log"
