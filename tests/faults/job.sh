# What a job of the load does, see plans.py. Sourced with the positional parameters MARKS TAG FIRST.
# It notes in the file MARKS, which is outside of the mount, that it was started and how it is about to end: that is the
# truth that the table is held against. Each note is one write(2). Output is numbers of 15 digits from FIRST on, one a
# line, so that the record N of a stream is at byte 16 * N.

marks=$1 tag=$2 first=$3 outs=0 errs=0

mark() {
    echo "$tag $*" >>"$marks"
}

out() { # RECORDS
    seq $((first + outs)) $((first + outs + $1 - 1))
    outs=$((outs + $1))
    mark out $outs
}

err() { # RECORDS
    seq $((first + 50000000 + errs)) $((first + 50000000 + errs + $1 - 1)) >&2
    errs=$((errs + $1))
    mark err $errs
}

leave() { # RECORDS: a descendant that writes them when the job itself has gone
    { sleep 0.2; out "$1"; } &
}

hold() {
    sleep 1000 &
    { wait $!; } 2>/dev/null # where the shell says how that was ended
}

talk() {
    while :; do
        out 8
        sleep 0.02
    done
}

finish() { # EXIT STATUS
    mark exit "$1"
    exit "$1"
}

die() { # SIGNAL NUMBER
    mark signal "$1"
    kill -"$1" $$
}

mark start $$ "$JOBFS_ID"
