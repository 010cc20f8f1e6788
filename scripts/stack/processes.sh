# shellcheck shell=bash
# Processes of the stack: those of this host, with one pid file each (`pid start-time fingerprint`), and those in the clusters' pods.
# Sourced by stack.sh.
start_time() { # of a pid, in clock ticks since boot: a pid alone may belong to somebody else by now
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    echo "${20}"
}
alive() { # alive NAME
    local pid started
    read -r pid started _ 2>/dev/null <"$RUN/$1.pid" || return 1
    [ "$(start_time "$pid")" = "$started" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null
}
end() { # end NAME SIGNAL: and wait until it is gone; SIGKILL after 15 s
    local name=$1 pid waited=0
    if alive "$name"; then
        read -r pid _ <"$RUN/$name.pid"
        kill "-$2" "$pid" 2>/dev/null || true
        while alive "$name"; do
            sleep 0.1
            waited=$((waited + 1))
            [ "$waited" != 150 ] || kill -KILL "$pid" 2>/dev/null || true
            [ "$waited" -lt 200 ] || die "$name (pid $pid) does not end"
        done
        say "stopped $name"
    fi
    rm -f "$RUN/$name.pid"
}
launch() { # launch NAME COMMAND...: unless the same program with the same arguments runs already
    local name=$1 print was
    shift
    print=$({ stat -Lc '%i %Y %s' "$1" "$MUSTER"; printf '%s\0' "$@"; } | sha256sum | cut -c1-16)
    if alive "$name"; then
        read -r _ _ was <"$RUN/$name.pid"
        [ "$was" != "$print" ] || return 0
        say "$name runs with another binary or other arguments: starting it anew"
        end "$name" TERM
    fi
    {
        printf '\n--- %s' "$(date -u +%FT%TZ)"
        printf ' %q' "$@"
        echo
    } >>"$LOGS/$name.log"
    # Our descriptors, locks among them, must not live on in it.
    (
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null || true
        done
        umask 077
        export NO_COLOR=1 # a log file is no terminal
        exec setsid "$@" </dev/null >>"$LOGS/$name.log" 2>&1
    ) &
    local pid=$!
    printf '%s %s %s\n' "$pid" "$(start_time "$pid")" "$print" >"$RUN/$name.pid"
    disown "$pid"
    say "started $name (pid $pid, log $LOGS/$name.log)"
}
failed() { # failed NAME: the end of its log, then give up
    tail -n 20 "$LOGS/$1.log" >&2 || true
    die "$1 did not come up; its log is $LOGS/$1.log"
}
muster_in() { # muster_in CLUSTER [VERB]: pids of `muster` in its pods; the nodes share this machine's kernel
    local pid words
    for pid in $(grep -lz '^/usr/bin/muster$' /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
        mapfile -d '' -t words <"/proc/$pid/cmdline" 2>/dev/null || continue
        [ -z "${2:-}" ] || [ "${words[1]:-}" = "$2" ] || continue
        if grep -q "/$1/" "/proc/$pid/cgroup" 2>/dev/null; then echo "$pid"; fi
    done
}
