#!/usr/bin/env bash
# The measurement of VideoSAVi that PAPERS.md quotes: both forms, all controls, several seeds, one table.
#     benches/proof.sh OUT [KEY=VALUE ...]
# FORM=judge|critique (the form whose controls run), SEEDS="1 2 3", SAVI=target/release/savi, JOBS runs at
# a time on a thread each (results do not depend on threads). Further keys go to every run;
# evaluation.split=dev is how settings are chosen. Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT}
shift
form=${FORM:-critique}
read -ra seeds <<<"${SEEDS:-1 2 3}"
jobs=${JOBS:-$(nproc)}
export savi=${SAVI:-target/release/savi} out RAYON_NUM_THREADS=1
extra=()
for pair in "$@"; do extra+=(--set "$pair"); done
mkdir -p "$out/logs"

# What an arm has in common with one that has run (the base's evaluation, a round's questions and
# answers) is taken from there. Stages know by their keys whether they fit; what does not is made anew.
share() {
  local from=$1 to=$2 stage
  [[ -d $to || ! -d $from/stages ]] && return
  mkdir -p "$to/stages"
  cp "$from/manifest.json" "$to/"
  for stage in "$from"/stages/{0?,1[1-5]}-*; do cp -r "$stage" "$to/stages/"; done
}
one() {
  local donor=$1 name=$2 config=configs/video/proof-$3.toml seed=$4
  shift 4
  share "$out/$donor-$seed" "$out/$name-$seed"
  "$savi" video run --config "$config" "$@" --set "seed=$seed" --run-dir "$out/$name-$seed" \
    >"$out/logs/$name-$seed.log" 2>&1 || { echo "$name, seed $seed: failed"; tail -3 "$out/logs/$name-$seed.log"; return 1; }
  echo "$name, seed $seed: done"
}
export -f share one

# arm DONOR NAME FORM KEY=VALUE...: one run a seed, in the queue.
queue=()
arm() {
  local donor=$1 name=$2 of=$3 sets=() pair seed
  shift 3
  for pair in "$@"; do sets+=(--set "$pair"); done
  for seed in "${seeds[@]}"; do
    queue+=("$(printf '%q ' one "$donor" "$name" "$of" "$seed" "${sets[@]}" "${extra[@]}")")
  done
}
run_queue() {
  printf '%s\0' "${queue[@]}" | xargs -0 -n 1 -P "$jobs" bash -c
  queue=()
}

# of NAME [@ROUND]: the arm as `eval compare` takes it.
of() {
  local folders=() seed
  for seed in "${seeds[@]}"; do folders+=("$out/$1-$seed${2:-}"); done
  local IFS=,
  echo "$1${2:+-base}=${folders[*]}"
}

# The clips are made once, before runs stand side by side.
"$savi" video run --config "configs/video/proof-$form.toml" "${extra[@]}" --set method.rounds=0 \
  --set evaluation.max_questions=1 --run-dir "$out/clips" >"$out/logs/clips.log" 2>&1
arm none "$form" "$form"
run_queue
for other in judge critique; do
  [[ $other = "$form" ]] || arm "$form" "$other" "$other"
done
# Critics that see something else find more to revise: these arms learn from as many pairs a round as the form
# itself does (its mean over seeds and rounds), or steps would differ, too.
count=$(cat "$out/$form"-*/checkpoints/round-*/pairs.jsonl | wc -l)
rounds=$(ls -d "$out/$form"-*/checkpoints/round-* | wc -l)
equal="method.pairs_per_round=$((count / rounds))"
arm "$form" other-clip "$form" method.judge_video=other method.no_pairs=skip "$equal"
arm "$form" no-video "$form" method.judge_video=none method.no_pairs=skip "$equal"
arm "$form" sft-initial "$form" method.learn=sft-initial
arm "$form" sft-labelled "$form" method.learn=sft-labelled
arm "$form" self-correction critique method.rounds=0 evaluation.answering=critique-revise
arm "$form" vote-of-5 judge method.rounds=0 evaluation.answering=majority
arm "$form" blind judge method.rounds=0 evaluation.view=blind
run_queue

others=(judge critique other-clip no-video sft-initial self-correction vote-of-5 sft-labelled blind)
arms=()
for name in "${others[@]}"; do arms+=("$(of "$name")"); done
"$savi" eval compare "$(of "$form" @0)" "${arms[@]}" --families | tee "$out/table.txt"
for control in other-clip no-video sft-initial self-correction vote-of-5; do
  "$savi" eval compare "$(of "$control")" "$(of "$form")" | tee -a "$out/table.txt"
done
world=$(sed -n 's/^dir = "\(.*\)"/\1/p' "configs/video/proof-$form.toml")
split=test
for pair in "$@"; do
  case $pair in
    world.dir=*) world=${pair#*=} ;;
    evaluation.split=*) split=${pair#*=} ;;
  esac
done
unset RAYON_NUM_THREADS
"$savi" eval run --model floor:majority-class --suite moving-shapes --data "$world" --split "$split" \
  --out "$out/majority-class" | tee -a "$out/table.txt"

# What every arm learnt from, and for how long.
for lesson in "$out"/*/checkpoints/round-*/{pairs,examples}.jsonl; do
  [[ -e $lesson ]] || continue
  run=${lesson%%/checkpoints/*} round=${lesson%/*}
  steps=$(grep -c "\"round\":${round##*-}[,}]" "$run/metrics.jsonl" || true)
  echo "${run##*/} ${round##*/}: $(wc -l <"$lesson") records, $steps steps"
done | sort | tee "$out/steps.txt"
for file in "$out"/{judge,critique}-*/{audit.json,stages/*1-ask/done.json,stages/*8-audit/done.json}; do
  echo "$file"
  cat "$file"
done >"$out/audits.txt"
