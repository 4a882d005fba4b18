#!/bin/sh
# The demo: sh packaging/demo.sh [--once]
#
# Installs what is missing, builds, and starts on loopback an upstream that takes mail over TLS from
# whoever logs in, tasukid in front of it, and the status page; sends a few messages through, says
# what to try, and stays until Ctrl-C. All it writes is below one directory in /tmp, which goes when
# the demo ends.
#
#   --once   sends, checks that everything arrived, also after the upstream refused the login for a
#            while, and ends: exit 0 when all was well, 1 otherwise
set -u
cd "$(dirname "$0")/.." || exit 1

once=no
case "$*" in
'') ;;
--once) once=yes ;;
-h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' packaging/demo.sh && exit 0 ;;
*) echo 'usage: sh packaging/demo.sh [--once]' >&2 && exit 64 ;;
esac

programs=build/release
demo=''
upstream_pid='' daemon_pid='' web_pid='' follow_pid=''
wait_tenths=300 # of seconds, for whatever has to happen

say() {
    printf '%s\n' "$*"
}

fail() {
    printf '\ndemo: %s\n' "$*" >&2
    for log in upstream.log tasukid.log tasuki-web.log; do
        if [ -n "$demo" ] && [ -s "$demo/$log" ]; then
            printf '%s\n' "--- the end of $log" >&2
            tail -n 15 "$demo/$log" >&2
        fi
    done
    end 1
}

# ---- children ----

# Has it ended? A child that nobody has waited for stays as a zombie.
ended() {
    case $(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) in
    '' | Z | X) return 0 ;;
    *) return 1 ;;
    esac
}

# Ends one child of ours; its exit status.
end_child() {
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null
    left=$wait_tenths
    until ended "$1" || [ $left -eq 0 ]; do
        sleep 0.1
        left=$((left - 1))
    done
    [ $left -gt 0 ] || kill -KILL "$1" 2>/dev/null
    wait "$1" 2>/dev/null
}

# Ends everything, in the order in which mail flows, and this script. Whoever calls it gives the
# exit status so far; a child that does not end in peace spoils it.
end() {
    trap '' INT TERM HUP
    status=$1
    for child in "$web_pid" "$daemon_pid" "$upstream_pid"; do
        end_child "$child" || status=1
    done
    end_child "$follow_pid"
    [ -z "$demo" ] || rm -rf "$demo"
    exit "$status"
}

trap 'echo; say "ending ..."; end 0' INT TERM HUP

# until_true WHAT COMMAND...: asks again and again, with an end.
until_true() {
    what=$1
    shift
    left=$wait_tenths
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "waited $((wait_tenths / 10)) seconds in vain for $what"
        sleep 0.1
    done
}

# ---- ports ----

is_taken() {
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null
}

# The first free port from this one on, into port.
find_port() {
    port=$1
    while is_taken "$port"; do
        port=$((port + 1))
        [ "$port" -lt $(($1 + 200)) ] || fail "no free port from $1 on"
    done
}

# The status line of a page.
http_status() {
    # shellcheck disable=SC2016 # bash's variables
    bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" &&
        printf "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\n\r\n" "$1" "$0" >&3 &&
        IFS= read -r -t 10 line <&3 && printf "%s\n" "${line%?}"' "$1" "$2" 2>/dev/null
}

page_answers() {
    case $(http_status "$web_port" "$1") in
    *' 200 '*) return 0 ;;
    *) return 1 ;;
    esac
}

# ---- prepare ----

install_packages() {
    sh packaging/packages.sh build runtime || exit 1
    command -v bash >/dev/null || fail 'bash is needed'
}

build() {
    say 'building ...'
    mkdir -p build
    if ! make -j"$(nproc)" $programs/tasukid $programs/tasukictl $programs/tasuki-demo-upstream \
        >build/demo-build.log 2>&1; then
        tail -n 30 build/demo-build.log >&2
        fail 'the build failed; all of its output is in build/demo-build.log'
    fi
    if ! make -j"$(nproc)" $programs/tasuki-web >>build/demo-build.log 2>&1; then
        rm -f $programs/tasuki-web
        say 'tasuki-web could not be built: there will be no page (see build/demo-build.log)'
    fi
}

# Short commands for whoever tries things out.
write_commands() {
    cat >"$demo/upstream" <<END
#!/bin/sh
# Tells the demo upstream how to behave: upstream MODE, or upstream stats
exec '$PWD/$programs/tasuki-demo-upstream' --control '$demo/upstream.sock' --tell "\$*"
END
    cat >"$demo/send" <<END
#!/bin/sh
# Sends one message through tasuki: send [SUBJECT]
exec bash '$PWD/packaging/demo-send' 127.0.0.1 $smtp_port printer@demo.example anna@example.com "\${*:-hello}"
END
    cat >"$demo/ctl" <<END
#!/bin/sh
# tasukictl, for this demo's daemon: ctl [COMMAND...]
exec '$PWD/$programs/tasukictl' -c '$demo/tasuki.conf' "\$@"
END
    chmod +x "$demo/upstream" "$demo/send" "$demo/ctl"
}

prepare() {
    demo=$(mktemp -d "${TMPDIR:-/tmp}/tasuki-demo.XXXXXX") || exit 1
    mkdir "$demo/arrived"
    (umask 077 && head -c 18 /dev/urandom | base64 >"$demo/secret")
}

write_config() {
    find_port 2525
    smtp_port=$port
    find_port 8025
    web_port=$port
    cat >"$demo/tasuki.conf" <<END
hostname    = demo.example
domain      = demo.example
listen      = 127.0.0.1:$smtp_port
state       = $demo/state
run         = $demo/run
retry-min   = 2s
retry-max   = 10s

[upstream demo]
host          = [127.0.0.1]:$upstream_port
tls           = verify
tls-ca        = $demo/ca.pem
user          = office
password-file = $demo/secret
probe-min     = 1s
probe-max     = 5s
reply-timeout = 10s

[dashboard]
listen      = 127.0.0.1:$web_port
END
    write_commands
}

# ---- start ----

# A program of ours that has ended already will not become ready.
is_ready() {
    ended "$1" && fail "$3 did not start"
    grep -q "$4" "$demo/$2"
}

start_upstream() {
    $programs/tasuki-demo-upstream --listen 127.0.0.1:0 --make-cert "$demo" --user office \
        --password-file "$demo/secret" --control "$demo/upstream.sock" --keep "$demo/arrived" \
        >"$demo/upstream.log" 2>&1 </dev/null &
    upstream_pid=$!
    until_true 'the upstream' is_ready $upstream_pid upstream.log 'the upstream' '^listening on '
    upstream_port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$demo/upstream.log")
}

start_daemon() {
    $programs/tasukid -c "$demo/tasuki.conf" >"$demo/tasukid.log" 2>&1 </dev/null &
    daemon_pid=$!
    until_true tasukid is_ready $daemon_pid tasukid.log tasukid 'event=start '
}

web_is_ready() {
    ended "$web_pid" && fail 'tasuki-web did not start'
    page_answers /healthz
}

start_web() {
    [ -x $programs/tasuki-web ] || return 0
    $programs/tasuki-web -c "$demo/tasuki.conf" >"$demo/tasuki-web.log" 2>&1 </dev/null &
    web_pid=$!
    until_true tasuki-web web_is_ready
}

# ---- show ----

# The daemon's log in plain words: what came, what left, what waits and why.
in_words() {
    sed -n -u \
        -e 's/^time=[^T]*T\([0-9:]*\)Z level=[a-z]* event=/  \1 /' \
        -e 's/ accepted id="\([^"]*\)" .* from="\([^"]*\)" to="\([^"]*\)".*/ taken in   \1 from \2 to \3/p' \
        -e 's/ delivered id="\([^"]*\)" upstream=\([^ ]*\) .* code=\([0-9]*\) .* to="\([^"]*\)" reply="\(.*\)"$/ delivered  \1 to \4 by \2, which said: \3 \5/p' \
        -e 's/ deferred id="\([^"]*\)" .* code=\([0-9]*\) next=\([0-9]*\) .*reply="\(.*\)"$/ waits      \1 for \3 s: \2 \4/p' \
        -e 's/ failed id="\([^"]*\)" .* code=\([0-9]*\) .*reply="\(.*\)"$/ failed     \1, the sender is told: \2 \3/p' \
        -e 's/ upstream-up upstream=\([^ ]*\) .* tls="\([^"]*\)" mechanism="\([^"]*\)".*/ connected  to \1, \2, logged in by \3/p' \
        -e 's/ upstream-marked upstream=\([^ ]*\) .* code=\([0-9]*\) next=\([0-9]*\) text="\(.*\)"$/ marked     \1 takes nothing: \2 \4; next try in \3 s/p' \
        -e 's/ upstream-well upstream=\([^ ]*\) .*/ well       \1 works again/p'
}

count_arrived() {
    find "$demo/arrived" -name '*.eml' | wc -l
}

have_arrived() {
    [ "$(count_arrived)" -ge "$1" ]
}

send() {
    reply=$("$demo/send" "$@") || fail 'a message was not taken'
    say "  $reply"
}

# Lines are written a little later than things happen.
log_is_written() {
    [ "$(grep -c ' event=delivered ' "$demo/tasukid.log")" -ge 3 ]
}

send_three() {
    say 'Three messages, as a printer would send them:'
    for subject in 'scan 1 of 3' 'scan 2 of 3' 'scan 3 of 3'; do
        send "$subject"
    done
    until_true 'the messages at the upstream' have_arrived 3
    until_true 'an empty queue' queue_is_empty
    until_true 'its log' log_is_written
    printf '\n%s\n' 'What tasukid did with them, from its log:'
    in_words <"$demo/tasukid.log"
    printf '\n%s\n' 'tasukictl says:'
    "$demo/ctl" | sed 's/^/  /'
    echo
}

queue_is_empty() {
    [ -z "$("$demo/ctl" queue --json 2>&1)" ]
}

# ---- --once: more than a look ----

says_login_refused() {
    "$demo/ctl" status 2>&1 | grep -q 'refuses the login'
}

check_refused_login() {
    say 'The upstream now refuses the login; one more message:'
    "$demo/upstream" refuse-login >/dev/null || fail 'the upstream cannot be told'
    send 'sent while the login was refused'
    until_true 'a word about the refused login' says_login_refused
    [ "$(count_arrived)" -eq 3 ] || fail 'a message arrived that could not have'
    "$demo/ctl" | sed -n '1s/^/  /p'
    say 'The login works again:'
    "$demo/upstream" ok >/dev/null || fail 'the upstream cannot be told'
    until_true 'the message that waited' have_arrived 4
    until_true 'an empty queue' queue_is_empty
    "$demo/ctl" | sed -n '1s/^/  /p'
}

# Each once, with its envelope.
check_what_arrived() {
    for subject in 'scan 1 of 3' 'scan 2 of 3' 'scan 3 of 3' 'sent while the login was refused'; do
        [ "$(grep -l "^Subject: $subject" "$demo/arrived"/*.eml | wc -l)" -eq 1 ] ||
            fail "\"$subject\" did not arrive exactly once"
    done
    [ "$(grep -l '^MAIL FROM:<printer@demo.example>' "$demo/arrived"/*.eml | wc -l)" -eq 4 ] &&
        [ "$(grep -l '^RCPT TO:<anna@example.com>' "$demo/arrived"/*.eml | wc -l)" -eq 4 ] ||
        fail 'an envelope is not what was sent'
}

check_page() {
    if [ -z "$web_pid" ]; then
        say 'tasuki-web is not there: the page was not looked at.'
        return
    fi
    page_answers / || fail "the page answers: $(http_status "$web_port" /)"
    page_answers /api/v1/status || fail "its status answers: $(http_status "$web_port" /api/v1/status)"
    say "The page answers at http://127.0.0.1:$web_port/"
}

# ---- what to try ----

explain() {
    if [ -n "$web_pid" ]; then
        say "The page:      http://127.0.0.1:$web_port/"
    else
        say 'The page:      not there (tasuki-web was not built)'
    fi
    cat <<END
Mail is taken: 127.0.0.1, port $smtp_port
What arrived:  $demo/arrived

Try, in another terminal, and look at the page, at the lines below, or at $demo/ctl:

  $demo/send                    one more message
  $demo/upstream refuse-login   as after a changed password: mail waits, nothing bounces
  $demo/upstream throttle       "too much mail from you"
  $demo/upstream defer          every recipient: try again later
  $demo/upstream refuse         every recipient refused for good: ctl queue state:trashed, ctl retry
  $demo/upstream stall          it answers nothing any more
  $demo/upstream drop late      it takes a message, and closes before it says so
  $demo/upstream ok             all is well again
  $demo/ctl                     is mail leaving? what waits? what do I do?
  $demo/ctl queue               what waits, and why
  $demo/ctl test                logs in at the upstream and shows the dialogue

Ctrl-C ends everything. What happens from here on:
END
}

# The daemon's log from here on, until the daemon ends.
follow() {
    tail -n 0 -f --pid="$daemon_pid" "$demo/tasukid.log" 2>/dev/null | in_words &
    follow_pid=$!
}

install_packages
build
prepare
start_upstream
write_config
start_daemon
start_web
echo
send_three
if [ $once = yes ]; then
    check_refused_login
    check_what_arrived
    check_page
    say 'demo: all messages arrived'
    end 0
fi
explain
follow
wait "$daemon_pid"
fail 'tasukid has ended'
