#!/bin/sh
# Installs what packages.txt lists in these sections, where it is missing.
# usage: packaging/packages.sh SECTION...
#
# Asks apt only when something is missing; needs root or sudo only then.
set -eu
list=$(dirname "$0")/packages.txt

wanted=$(awk -v sections=" $* " '
    /^\[/ { here = index(sections, " " substr($1, 2, length($1) - 2) " ") > 0; next }
    /^[^#]/ && here { print $1, $2 }
' "$list" | while read -r package command; do
    if [ -z "$command" ] || ! command -v "$command" >/dev/null; then
        echo "$package"
    fi
done)
if [ -z "$wanted" ]; then
    echo "usage: packaging/packages.sh SECTION... (see $list)" >&2
    exit 64
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "There is no apt here. Needed, under the names that Debian gives them:" >&2
    # shellcheck disable=SC2086 # words on purpose
    echo " " $wanted >&2
    exit 0
fi

# shellcheck disable=SC2086
installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' $wanted 2>/dev/null |
    sed -n 's/ installed$//p') || true
missing=
for package in $wanted; do
    case "
$installed
" in
    *"
$package
"*) ;;
    *) missing="$missing $package" ;;
    esac
done
if [ -z "$missing" ]; then
    exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "These packages are missing; have root install them, and come again:" >&2
        echo "  apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root='sudo'
fi

# Postfix is a peer that the tests start for themselves: no configuration, so no service.
case "$missing " in
*' postfix '*)
    echo 'postfix postfix/main_mailer_type select No configuration' |
        $as_root debconf-set-selections
    ;;
esac

echo "installing:$missing"
apt="apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
# shellcheck disable=SC2086
$as_root $apt update
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes $apt \
    --no-install-recommends install $missing >/dev/null
