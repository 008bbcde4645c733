#!/bin/sh
# What each optimization gains: a model compiled without its rules, against the same model compiled with all, in paired
# runs. Prints a table in Markdown: time without over time with, the least of all rounds for each.
#
#   scripts/gains.sh [-c COMMAND] [-b OTHER_COMMAND] [-r ROUNDS] [-w FORMAT] FOLDER
#
# OTHER_COMMAND is an older compile-model, which gets a row of its own. FOLDER is a checkpoint; one that writes text is measured
# by a prompt of 128 tokens and 8 after it, any other by 32 x 128 and 1 x 16 tokens. Needs jq and room for two plans.
set -eu

command=compile-model other= rounds=3 weights=keep
while getopts c:b:r:w: option; do
    case $option in
        c) command=$OPTARG ;;
        b) other=$OPTARG ;;
        r) rounds=$OPTARG ;;
        w) weights=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# Name of the optimization: rules that are left out, of which some may not be there.
optimizations() {
    cat <<'LIST'
merged siblings (q, k, v; gate, up): merge-siblings
gated pair in one kernel: gated-pair gated-pair-mirrored gated-pair-bias gated-pair-bias-mirrored
bias, activation, residual in the contraction: linear-*
gain and bias in the norm: layer-norm-* rms-norm-*
norm as prologue: normed-* norm-*
folded gains and scales: fold-gain fold-scale
LIST
}

target=$("$command" devices --json | jq -r ".adapters[0].tier")
# The names that a pattern stands for: a name that no rule has is answered with all names.
all=$("$command" build "$folder" --dump import --without '?' 2>&1 >/dev/null | tr ', ' '\n\n' | tr -d '"`' || true)
expand() {
    for pattern in "$@"; do
        prefix=${pattern%\*}
        if [ "$prefix" = "$pattern" ]; then echo "$pattern"; else echo "$all" | grep "^$prefix" || true; fi
    done | sort -u
}

build() { # COMMAND PLAN [RULES]
    tool=$1 plan=$2
    shift 2
    options=
    for rule in "$@"; do options="$options --without $rule"; done
    # shellcheck disable=SC2086 # Names of rules have no spaces.
    "$tool" build "$folder" -o "$plan" --weights "$weights" --targets "$target" $options >/dev/null
}

writes() { "$command" inspect "$1" --json | jq -e '[.programs[].output] | index("candidates") != null' >/dev/null; }

measure() { # COMMAND PLAN: two times in milliseconds
    if [ "$text" = yes ]; then
        "$1" bench "$2" --prompt-tokens 128 --new-tokens 8 --repeat 1 --warmup 1 --json |
            jq -r '"\(.prompt_tokens / .prompt_tokens_per_s * 1e3) \(.step_min_ms)"'
    else
        big=$("$1" bench "$2" --batch 32 --tokens 128 --repeat 2 --warmup 1 --json | jq .min_ms)
        small=$("$1" bench "$2" --batch 1 --tokens 16 --repeat 40 --warmup 5 --json | jq .min_ms)
        echo "$big $small"
    fi
}

least() { awk 'NR == 1 { a = $1; b = $2 } { if ($1 < a) a = $1; if ($2 < b) b = $2 } END { print a, b }' "$1"; }

pair() { # NAME COMMAND PLAN
    : >"$work/with"
    : >"$work/without"
    for _ in $(seq "$rounds"); do
        measure "$command" "$work/full.weft" >>"$work/with"
        measure "$2" "$3" >>"$work/without"
    done
    dispatches=$("$2" inspect "$3" --json | jq '[.programs[] | .dispatches] | max')
    echo "$(least "$work/with") $(least "$work/without")" |
        awk -v name="$1" -v n="$dispatches" '{ printf "| %s | %s | %.2f | %.2f |\n", name, n, $3 / $1, $4 / $2 }'
}

build "$command" "$work/full.weft"
if writes "$work/full.weft"; then text=yes heads='prompt of 128 | token'; else text=no heads='32 x 128 | 1 x 16'; fi
echo "| without | most dispatches | $heads |"
echo "|---|---|---|---|"
pair "nothing" "$command" "$work/full.weft"
optimizations | while IFS=: read -r name patterns; do
    # shellcheck disable=SC2046,SC2086 # Patterns and names have no spaces.
    rules=$(expand $(set -f; echo $patterns))
    # shellcheck disable=SC2086
    if build "$command" "$work/other.weft" $rules 2>"$work/problem"; then
        pair "$name" "$command" "$work/other.weft"
    else
        echo "| $name | needed: $(head -n 1 "$work/problem") | | |"
    fi
done
if [ -n "$other" ]; then
    build "$other" "$work/other.weft"
    pair "all that is newer than $("$other" --version)" "$other" "$work/other.weft"
fi
