#!/bin/bash
# From a folder of tomograms to class averages, by scipion-faml alone. README.md tells more.
#
#   pipeline.sh [-c SETTINGS] TOMOGRAM_FOLDER OUTPUT_FOLDER
#
# Call it again at any time: what is finished is not repeated, what was interrupted continues, and
# tomograms that have come since are added. A tomogram that fails does not stop the others.
set -u -o pipefail

# ------------------------------------------------------------------------------------- settings
# Each can be set in the environment, or in the file SETTINGS (a shell script).
settings=
while getopts c: option; do
    case $option in
        c) settings=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [ $# -ne 2 ]; then
    echo "usage: $0 [-c SETTINGS] TOMOGRAM_FOLDER OUTPUT_FOLDER" >&2
    exit 2
fi
data=$1 out=$2
if [ -n "$settings" ]; then
    # shellcheck source=/dev/null
    . "$settings" || exit 2
fi
: "${PATTERN:=*.mrc}"                    # names of the tomograms
: "${PICK:=pick-dog --diameter 250}"     # a verb and its options; or pick-detector, pick-template
: "${EXTRACT:=--box 28 --pad}"           # with --invert where particles are dark
: "${CLASSIFY:=--classes 2 --low-pass 40}"
: "${TILT_MIN:=-60}" "${TILT_MAX:=60}"   # degrees
: "${JOBS:=1}"                           # tomograms at a time
: "${WORKERS:=$(nproc)}"                 # threads of all of them together

if ! command -v scipion-faml >/dev/null; then
    echo "error: scipion-faml is not in the PATH: add its folder" >&2
    exit 2
fi
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
export LC_COLLATE=C  # the order of the tomograms, and so of the particles
mkdir -p "$out/tomograms" || exit 2
each=$((WORKERS / JOBS > 0 ? WORKERS / JOBS : 1))

# ---------------------------------------------------------------------------------------- steps
# step NAME FOLDER VERB ...: its JSON becomes FOLDER/NAME.json, its log is added to FOLDER/NAME.log
step() {
    local name=$1 folder=$2 status
    shift 2
    mkdir -p "$folder"
    # In the background, so that a signal is obeyed at once.
    scipion-faml "$@" --json >"$folder/.$name.json" 2>>"$folder/$name.log" &
    wait $!
    status=$?
    if [ $status -eq 0 ]; then
        mv "$folder/.$name.json" "$folder/$name.json"
    else
        rm -f "$folder/.$name.json"
        echo "$name: $(tail -n 1 "$folder/$name.log")" >"$folder/failed.txt"
    fi
    return $status
}

end_with_children() {
    trap - INT TERM HUP
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null
    wait
    exit 1
}

# one TOMOGRAM: pick and extract
one() {
    local name folder
    trap end_with_children INT TERM HUP
    name=$(basename "${1%.*}")
    folder=$out/tomograms/$name
    mkdir -p "$folder"
    rm -f "$folder/failed.txt"
    # shellcheck disable=SC2086 # settings are several words
    step pick "$folder" $PICK "$1" --tilt-min "$TILT_MIN" --tilt-max "$TILT_MAX" \
        --tomo-name "$name" --output "$folder/picks.star" --workers "$each" || return
    [ -f "$folder/picks.star" ] || return 0  # nothing was found there
    # shellcheck disable=SC2086
    step extract "$folder" extract "$1" "$folder/picks.star" $EXTRACT --tomo-name "$name" \
        --tilt-min "$TILT_MIN" --tilt-max "$TILT_MAX" --output "$folder/particles" \
        --workers "$each"
}

trap end_with_children INT TERM HUP
n_tomograms=0
for tomogram in "$data"/$PATTERN; do
    [ -f "$tomogram" ] || continue
    n_tomograms=$((n_tomograms + 1))
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
    one "$tomogram" &
done
wait
if [ $n_tomograms -eq 0 ]; then
    echo "error: no tomogram $PATTERN in $data: set PATTERN" >&2
    exit 2
fi

# ------------------------------------------------------------------------------- all tomograms
failed=0
for said in "$out"/tomograms/*/failed.txt; do
    [ -f "$said" ] || continue
    echo "$(basename "$(dirname "$said")") failed: $(cat "$said")" >&2
    failed=1
done
tables=()
for table in "$out"/tomograms/*/particles/particles.star; do
    # run.json is written last: without it the table is of a run that was interrupted.
    [ -f "${table%/*}/run.json" ] && tables+=("$table")
done
if [ ${#tables[@]} -eq 0 ]; then
    echo "error: no particles in $n_tomograms tomogram(s)" >&2
    exit 2
fi
step join "$out" join-particles "${tables[@]}" --output "$out/particles.star" --overwrite ||
    { cat "$out/failed.txt" >&2; exit 2; }

# Other particles are another classification; the same ones go on with theirs.
particles=$(sha256sum <"$out/particles.star" | cut -c1-8)
classes=$out/classes-$particles
# shellcheck disable=SC2086
step classify "$classes" classify "$out/particles.star" $CLASSIFY --output "$classes" \
    --workers "$WORKERS" || { cat "$classes/failed.txt" >&2; exit 1; }
ln -sfn "classes-$particles" "$out/classes"
step orientations "$classes" evaluate-orientations "$classes/particles.star" \
    --report "$classes/orientations.html"
scipion-faml reports "$out" --output "$out/session.html" --overwrite >/dev/null 2>&1
echo "$out/session.html"
exit $failed
