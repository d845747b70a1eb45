# shellcheck shell=bash
# How tests are run, and what failed is found in what they print: a part of tests/run, which sources it.
# shellcheck disable=SC2154 # variables of tests/run

# Names the tests that failed, with the beginning of what each said, from what `cargo test` printed: libtest lists them under
# its second `failures:`, and cargo, at its end, all targets that failed, also those that ended before they could say so.
# Tests that had not ended when their target was ended are named where they had taken a minute, as libtest names them then.
failed_tests() {
  awk '
    { gsub(/\033\[[0-9;]*m/, "") }
    /^ +Running .*\(.*\)$/ { target = $NF; gsub(/.*\/|-[0-9a-f]+\)$/, "", target) }
    /^ +Doc-tests / { target = "doc-tests " $2 }
    /^failures:$/ { lists++; lines = 0; next }
    /^test result:/ { lists = 0 }
    /^error: .*targets? failed:$/ { ended = 1; next }
    lists == 1 && /^---- .* stdout ----$/ { name = $2; lines = 0; next }
    lists == 1 && / panicked at .*:$/ { lines = 12; next }
    lists == 1 && /^Error: / { lines = 12 }
    /^note: / { lines = 0 }
    lines > 0 && NF { said[name] = said[name] "\n      " substr($0, 1, 200); lines-- }
    lists > 1 && /^    [^ ]/ { name = substr($0, 5); print "  " target ": " name said[name]; delete said[name] }
    / has been running for over 60 seconds$/ { running[$2] = target }
    /^test .* \.\.\. / { delete running[$2] }
    ended && /^    `/ { print "  cargo test " substr($0, 6, length($0) - 6) }
    END { for (name in running) print "  " running[name] ": " name ", which had not ended" }
  '
}

# How many tests ran, from what `cargo test` printed; a target that ended before it could say so has no line.
tests_run() { awk '/^test result:/ { sub(/.*\. /, ""); ran += $1 + $3 } END { print ran + 0 }'; }

ran=0
# Takes down what failed and how many ran, from a file with what `cargo test` printed: account_for FILE STATUS.
account_for() {
  local names
  names="$(failed_tests <"$1")"
  if [ -z "$names" ] && [ "$2" -ne 0 ]; then names="  cargo test, which ended with $2 and names no test"; fi
  if [ -n "$names" ]; then failures+="$names"$'\n'; fi
  ran=$((ran + $(tests_run <"$1")))
}

# Runs `cargo test` to its end, whatever fails: run_tests ARGUMENTS.
run_tests() {
  local status=0 said
  said="$(mktemp)"
  cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$said" || status=$?
  account_for "$said" "$status"
  rm -f "$said"
  return "$status"
}

# --- tests in two lanes, side by side: cargo runs one target after the other, and waits for the longest test of each ---

# The targets that start a Kubernetes; all others are the second lane.
on_kubernetes=(chart cluster operator)

# The test targets of the second lane, as cargo names them.
other_targets() {
  cargo test --workspace --locked --tests --no-run --color=never 2>&1 |
    sed -n 's:^ *Executable tests/.*/\(.*\)-[0-9a-f]*)$:\1:p' | grep -v -x -F "${on_kubernetes[@]/#/--regexp=}"
}

# Starts a command, which writes to LOG, in a process group of its own: it is ended with all that it has started where this
# script ends first. start LOG COMMAND.
start() {
  local log="$1"
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  set +m
}

# Waits until cargo runs tests, or has ended: is_under_way PID LOG.
is_under_way() { while kill -0 "$1" 2>/dev/null && ! grep -q Running "$2"; do sleep 0.2; done; }

# Starts both lanes: begin_lanes AT_ONCE_ON_KUBERNETES AT_ONCE_ELSE ARGUMENTS_OF_LIBTEST.
begin_lanes() {
  local others at_once
  mapfile -t others < <(other_targets)
  if [ ${#others[@]} -eq 0 ]; then echo "tests/run: cargo names no test targets" >&2; return 1; fi
  lanes="$(mktemp -d)"
  at_once=("--test-threads=$1" "--test-threads=$2")
  shift 2
  local test=(cargo test --workspace --locked --no-fail-fast)
  start "$lanes/kubernetes" "${test[@]}" "${on_kubernetes[@]/#/--test=}" -- --ignored "${at_once[0]}" "$@"
  lane_on_kubernetes=$!
  start "$lanes/others" "${test[@]}" --lib --bins "${others[@]/#/--test=}" -- --ignored "${at_once[1]}" "$@"
  lane_of_others=$!
  echo "what the tests say follows when all of a lane have ended"
  # From then on cargo no longer holds its lock on what is built, for which another cargo would wait.
  is_under_way "$lane_on_kubernetes" "$lanes/kubernetes"
  is_under_way "$lane_of_others" "$lanes/others"
}

# Lanes that have not ended by then are ended, so that what they said is printed before CI gives up, and with it which
# tests hang: four times what they take otherwise.
lanes_may_take=2700

# Tells now and then how far both are, for whoever waits, and ends them where they take too long.
watch_lanes() {
  local began=$SECONDS told=$SECONDS
  while kill -0 "$lane_on_kubernetes" 2>/dev/null || kill -0 "$lane_of_others" 2>/dev/null; do
    sleep 1
    if [ $((SECONDS - told)) -ge 120 ]; then
      told=$SECONDS
      echo "after $((SECONDS - began)) s: $(cat "$lanes"/* | grep -c '^test .* \.\.\. ok$') tests passed," \
        "$(cat "$lanes"/* | grep -c '^test .* \.\.\. FAILED$') failed"
    fi
    if [ $((SECONDS - began)) -ge "$lanes_may_take" ]; then
      echo "tests/run: these tests take more than $lanes_may_take s and are ended" >&2
      kill -- "-$lane_on_kubernetes" "-$lane_of_others" 2>/dev/null || true
      break
    fi
  done
}

# Waits for both, and prints what each has said.
end_lanes() {
  local others=0 kubernetes=0
  watch_lanes
  wait "$lane_of_others" || others=$?
  cat "$lanes/others"
  account_for "$lanes/others" "$others"
  wait "$lane_on_kubernetes" || kubernetes=$?
  cat "$lanes/kubernetes"
  account_for "$lanes/kubernetes" "$kubernetes"
  rm -r "$lanes"
  return "$((others | kubernetes))"
}

# --- the fault suite ---

# The tests that the table of faults names, those of them whose name contains FILTER.
fault_tests() {
  sed -n '/<!-- faults -->/,/<!-- end of faults -->/p' docs/reliability.md | grep '^| [0-9]' | grep -o '`[a-z0-9_]*`' |
    tr -d '`' | sort -u | grep -F -e "$filter"
}

# Those of them that need the machine for themselves, as they measure or take long, follow one at a time.
run_faults() {
  local status=0 serial all
  all="$(mktemp)"
  fault_tests >"$all"
  serial="$(cargo test --workspace --locked --tests -- --list --include-ignored 2>/dev/null |
    sed -n 's/^\(.*\(apart\|alone\|long\)::.*\): test$/\1/p' | grep -w -F -f "$all" || true)"
  stage "the fault suite, six at a time"
  # shellcheck disable=SC2046 # a list of names
  run_tests --tests -- --include-ignored --test-threads=6 --skip long:: --skip apart:: --skip alone:: \
    $(cat "$all") || status=$?
  if [ -n "$serial" ]; then
    stage "faults that take long or are measured, one at a time"
    # shellcheck disable=SC2086 # a list of names
    run_tests --tests -- --include-ignored --test-threads=1 --exact $serial || status=$?
  fi
  rm -f "$all"
  return "$status"
}

# Runs one test with programs that have bugs in them, one of them awake unless BUG is empty, and says what it printed to:
# planted_test LOG BUG TARGET TEST.
planted_test() {
  local log="$1" bug="$2" target="$3" test="$4"
  (
    if [ -n "$bug" ]; then export SLUICE_PLANTED_BUG="$bug"; else unset SLUICE_PLANTED_BUG; fi
    export SLUICE_TEST_BINARY="$planted_programs/sluice" SLUICE_TEST_OPERATOR="$planted_programs/sluice-operator"
    cargo test --workspace --locked --test "$target" -- --include-ignored --test-threads=1 "$test"
  ) >"$log" 2>&1
}

run_planted() {
  local target_dir="${CARGO_TARGET_DIR:-target}" log status=0 bug target test controlled=" " caught=0 all=0
  planted_programs="$(realpath "$target_dir")/debug/planted"
  # With a test, so that dependencies have the features that they were built with for tests.
  cargo build --workspace --locked --bin sluice --bin sluice-operator --test read \
    --features sluice-consumer/planted,sluice-operator/planted
  mkdir -p "$planted_programs"
  cp "$target_dir/debug/sluice" "$target_dir/debug/sluice-operator" "$planted_programs"
  log="$(mktemp)"
  while read -r bug target test; do
    case "$bug" in '#'* | '') continue ;; esac
    case "$bug $target $test" in *"$filter"*) ;; *) continue ;; esac
    all=$((all + 1))
    # Without a bug it must pass: only then is a failure the bug's.
    case "$controlled" in
      *" $test "*) ;;
      *)
        controlled+="$test "
        if ! planted_test "$log" "" "$target" "$test" || ! grep -q '^test result: ok. 1 passed' "$log"; then
          tail -n 40 "$log"
          failures+="  $target: $test, without a bug"$'\n'
          echo "no control  $test"
          status=1
          continue
        fi
        ;;
    esac
    if planted_test "$log" "$bug" "$target" "$test" || ! grep -q '^test result: FAILED. 0 passed; 1 failed' "$log"; then
      failures+="  planted bug $bug, which $test does not catch"$'\n'
      echo "NOT caught  $bug  ($test)"
      status=1
    else
      caught=$((caught + 1))
      echo "caught      $bug  ($test)"
      # What the test said, without the addresses of its panic.
      grep -m 1 -A 3 "panicked at" "$log" | sed -n '2,3{/./p}' | cut -c 1-160 | sed 's/^/              /'
    fi
  done <tests/planted
  rm -f "$log"
  if [ "$all" -eq 0 ]; then
    echo "tests/run: no planted bug and none of their tests matches $filter" >&2
    return 1
  fi
  echo "$caught of $all planted bugs are caught"
  return "$status"
}
