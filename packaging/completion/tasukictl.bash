# Bash completion for tasukictl. Commands, options and settings come from tasukictl itself, so that
# nothing here has to follow when one is added; message ids come from the running daemon.

# Values of one member of JSON lines, one a line. Our own output only: no escapes in these members.
_tasukictl_member() {
    sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'
}

_tasukictl_commands() {
    tasukictl help --json 2>/dev/null | _tasukictl_member command
}

_tasukictl_options() {
    tasukictl help "$@" --json 2>/dev/null | sed 's/.*"options":\[\([^]]*\)\].*/\1/' | tr -d '"' |
        tr ',' '\n'
}

_tasukictl_ids() {
    tasukictl --timeout 1 queue --limit 200 --json 2>/dev/null | _tasukictl_member id
}

_tasukictl_reply() {
    # $1: candidates, a line each
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$1" -- "$2"))
}

_tasukictl_filter() {
    local word=$1
    case $word in
    state:*)
        COMPREPLY=($(compgen -W "queued sending deferred in-doubt held failed delivered trashed" -- \
            "${word#state:}"))
        ;;
    end:*)
        COMPREPLY=($(compgen -W "delivered reported deleted discarded" -- "${word#end:}"))
        ;;
    [a-z]*:*)
        COMPREPLY=()
        ;;
    *)
        compopt -o nospace 2>/dev/null
        _tasukictl_reply "$(printf '%s:\n' from to subject client upstream device state end reason \
            id older newer larger smaller)" "$word"
        ;;
    esac
}

# Where the shell breaks words at ":", the field and its colon are words of their own.
_tasukictl_word() {
    local word=${COMP_WORDS[COMP_CWORD]}
    if ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[COMP_CWORD - 1]} == : ]]; then
        word=${COMP_WORDS[COMP_CWORD - 2]}:$word
    elif ((COMP_CWORD > 0)) && [[ $word == : ]]; then
        word=${COMP_WORDS[COMP_CWORD - 1]}:
    fi
    printf '%s' "$word"
}

_tasukictl() {
    local word command=() index
    word=$(_tasukictl_word)
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
        -c | --config | --socket | --timeout | --limit | --to | --from | --by | --reason | --for)
            ((index++))
            ;;
        -*) ;;
        *) command+=("${COMP_WORDS[index]}") ;;
        esac
    done
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    -c | --config | --socket)
        COMPREPLY=($(compgen -f -- "$word"))
        return
        ;;
    --by)
        COMPREPLY=($(compgen -W "reason device upstream" -- "$word"))
        return
        ;;
    --timeout | --limit | --to | --from | --reason | --for) return ;;
    esac
    if [[ $word == --* ]]; then
        _tasukictl_reply "$(_tasukictl_options "${command[@]:0:2}")" "$word"
        [[ ${COMPREPLY[*]} ]] || _tasukictl_reply "$(_tasukictl_options "${command[@]:0:1}")" "$word"
        return
    fi
    case "${command[*]}" in
    "") _tasukictl_reply "$(_tasukictl_commands | cut -d ' ' -f 1 | sort -u)" "$word" ;;
    help) _tasukictl_reply "$(_tasukictl_commands | cut -d ' ' -f 1 | sort -u)" "$word" ;;
    config | "help config")
        _tasukictl_reply "$(_tasukictl_commands | sed -n 's/^config //p')" "$word"
        ;;
    "config check" | backup) COMPREPLY=($(compgen -f -- "$word")) ;;
    "config explain")
        _tasukictl_reply "$(tasukictl config explain --json | _tasukictl_member key | sort -u)" "$word"
        ;;
    show | why) _tasukictl_reply "$(_tasukictl_ids)" "$word" ;;
    retry* | hold* | release* | delete* | undelete* | bounce*)
        if [[ $word == 0* ]]; then
            _tasukictl_reply "$(_tasukictl_ids)" "$word"
        else
            _tasukictl_filter "$word"
        fi
        ;;
    queue* | history* | "trace out"*) _tasukictl_filter "$word" ;;
    trace | "help trace") COMPREPLY=($(compgen -W "out" -- "$word")) ;;
    test | upstreams)
        _tasukictl_reply "$(tasukictl --timeout 1 upstreams --json 2>/dev/null |
            _tasukictl_member name)" "$word"
        ;;
    esac
}

complete -F _tasukictl tasukictl
