#!/bin/sh
# What each optimization is worth: a model compiled without its rules against the same model with all of them, in runs that
# take turns (`bench --baseline`). Prints a table in Markdown: dispatches and bytes of a step of one row and of a step of
# many, and how many times as long both take without, in the middle of all pairs.
#
#   scripts/gains.sh [-c COMMAND] [-r ROUNDS] [-t TARGET] FOLDER
#
# FOLDER is a checkpoint. One that writes text is measured by ROUNDS prompts of 64 tokens and 16 after each, any other by
# 20 x ROUNDS times 1 x 16 and ROUNDS times 8 x 128 tokens. TARGET is that of the adapter; with -r 0 nothing is run. Needs jq
# and room for two plans.
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
[ -n "$target" ] || target=$("$command" devices --json | jq -r '.adapters[0].tier')

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
        "norms of norms") names rows-rms "rms rms-carried rms-carries" ;;
        "norms prepared where rows are made") echo linear-pair-scaled ;;
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

paired() { # PLAN OPTIONS: bench of the full plan with this one as its baseline
    plan=$1
    shift
    "$command" bench "$work/full.weft" --baseline "$plan" --warmup 1 --json "$@" 2>/dev/null
}

against() { # PLAN: how many times as long a step of one row or a short one takes as the full plan's, and one of many
    if [ "$output" = candidates ]; then
        paired "$1" --prompt-tokens 64 --new-tokens 16 --repeat "$rounds" |
            jq -r '.baseline | "\(.decode_ratio) \(.prompt_ratio)"'
    else
        few=$(paired "$1" --batch 1 --tokens 16 --repeat $((20 * rounds)) | jq .baseline.ratio)
        many=$(paired "$1" --batch 8 --tokens 128 --repeat "$rounds" | jq .baseline.ratio)
        echo "$few $many"
    fi
}

row() { # NAME PLAN
    times="| – | – |"
    [ "$rounds" = 0 ] || times=$(against "$2" | awk '{ printf "| %.2f | %.2f |", $1, $2 }')
    echo "| $1 | $(step "$2" 1) | $(step "$2" 17) $times"
}

build "$work/full.weft"
output=$("$command" inspect "$work/full.weft" --json |
    jq -r 'if any(.programs[]; .output == "candidates") then "candidates" else "embedding" end')
echo "| without | dispatches, one row | MB | dispatches, many | MB | time, one or few | time, many |"
echo "|---|---|---|---|---|---|---|"
row "nothing" "$work/full.weft"
for name in "siblings merged" "gated pairs" "epilogues of contractions" "epilogues of norms" "norms in contractions" \
    "norms of norms" "norms prepared where rows are made" "folded gains and scales"; do
    # shellcheck disable=SC2046 # Names of rules have no spaces.
    if build "$work/other.weft" $(rules "$name") 2>"$work/problem"; then
        row "$name" "$work/other.weft"
    else
        echo "| $name | needed: $(grep -m 1 error "$work/problem") | | | | | |"
    fi
done
