#!/bin/sh
# What each optimization is worth: a model compiled without its rules against the same model with all of them, in runs that
# take turns. Prints a table in Markdown: dispatches and bytes of a step of one row and of a step of many, and the time
# without over the time with, the least of all rounds for each.
#
#   scripts/gains.sh [-c COMMAND] [-r ROUNDS] [-t TARGET] FOLDER
#
# FOLDER is a checkpoint. One that writes text is measured by a prompt of 64 tokens and 8 after it, any other by 1 x 16
# and 8 x 128 tokens. TARGET is that of the adapter; with -r 0 nothing is run. Needs jq and room for two plans.
set -eu

command=compile-model rounds=3 target=
while getopts c:r:t: option; do
    case $option in
        c) command=$OPTARG ;;
        r) rounds=$OPTARG ;;
        t) target=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
folder=${1:?a checkpoint folder is wanted}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
[ -n "$target" ] || target=$("$command" devices --json | jq -r '.adapters[0].target')

names() { # PREFIXES SUFFIXES: all pairs
    for prefix in $1; do for suffix in $2; do echo "$prefix-$suffix"; done; done
}

rules() { # The rules of an optimization.
    case $1 in
        "siblings merged") echo merge-siblings ;;
        "gated pairs") echo gated-pair gated-pair-mirrored gated-pair-bias gated-pair-bias-mirrored ;;
        "epilogues of contractions")
            names linear "gelu gelu-tanh silu relu tanh sigmoid add add-mirrored mul mul-mirrored div" ;;
        "epilogues of norms") names "layer-norm rms-norm" "add add-mirrored mul mul-mirrored" ;;
        "norms in contractions")
            names "linear linear-pair" "rms layer rms-rms rms-carried layer-carried rms-rms-carried
                rms-carries layer-carries rms-rms-carries" ;;
        "folded gains and scales") echo fold-gain fold-scale ;;
    esac
}

build() { # PLAN [RULES]
    plan=$1
    shift
    options=
    for rule in "$@"; do options="$options --without $rule"; done
    # shellcheck disable=SC2086 # Names of rules have no spaces.
    "$command" build "$folder" -o "$plan" --targets "$target" $options >/dev/null
}

step() { # PLAN FIRST_ROWS: dispatches and MB of a step
    "$command" inspect "$1" --json | jq -r "[.programs[] | select(.output == \"$output\" and .rows[0] == $2)][0]
        | \"\(.dispatches) | \(.bytes_per_step / 1e5 | round / 10)\""
}

measure() { # PLAN: milliseconds of a step of one row or a short one, and of one of many
    if [ "$output" = candidates ]; then
        "$command" bench "$1" --prompt-tokens 64 --new-tokens 8 --repeat 1 --warmup 1 --json 2>/dev/null |
            jq -r '"\(.step_min_ms) \(.prompt_tokens / .prompt_tokens_per_s * 1e3)"'
    else
        small=$("$command" bench "$1" --batch 1 --tokens 16 --repeat 60 --warmup 5 --json 2>/dev/null | jq .min_ms)
        big=$("$command" bench "$1" --batch 8 --tokens 128 --repeat 4 --warmup 1 --json 2>/dev/null | jq .min_ms)
        echo "$small $big"
    fi
}

least() { awk 'NR == 1 { a = $1; b = $2 } { if ($1 < a) a = $1; if ($2 < b) b = $2 } END { print a, b }' "$1"; }

row() { # NAME PLAN
    times="| – | – |"
    if [ "$rounds" -gt 0 ]; then
        : >"$work/with"
        : >"$work/without"
        for _ in $(seq "$rounds"); do
            measure "$work/full.weft" >>"$work/with"
            measure "$2" >>"$work/without"
        done
        times=$(echo "$(least "$work/with") $(least "$work/without")" |
            awk '{ printf "| %.2f | %.2f |", $3 / $1, $4 / $2 }')
    fi
    echo "| $1 | $(step "$2" 1) | $(step "$2" 17) $times"
}

build "$work/full.weft"
output=$("$command" inspect "$work/full.weft" --json |
    jq -r 'if any(.programs[]; .output == "candidates") then "candidates" else "embedding" end')
echo "| without | dispatches, one row | MB | dispatches, many | MB | time, one or few | time, many |"
echo "|---|---|---|---|---|---|---|"
row "nothing" "$work/full.weft"
for name in "siblings merged" "gated pairs" "epilogues of contractions" "epilogues of norms" "norms in contractions" \
    "folded gains and scales"; do
    # shellcheck disable=SC2046 # Names of rules have no spaces.
    if build "$work/other.weft" $(rules "$name") 2>"$work/problem"; then
        row "$name" "$work/other.weft"
    else
        echo "| $name | needed: $(grep -m 1 error "$work/problem") | | | | | |"
    fi
done
