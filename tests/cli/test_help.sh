#!/usr/bin/env bash
# --help of the program and of every command.
source "$(dirname "$0")/common.sh"

commands=$("$cocogold" --help | sed -nE 's/^  ([a-z-]+) .*/\1/p')
check "cocogold --help lists all commands" [ "$(echo $commands)" = "init synth stats preview encode train train-vae pretrain generate eval segment analyze report probe bench" ]
for form in help -h '-?'; do
    check "cocogold $form is the same" diff <("$cocogold" $form) <("$cocogold" --help)
    check "analyze $form is the same" diff <("$cocogold" analyze $form) <("$cocogold" analyze --help)
done
check_not "cocogold without arguments fails" "$cocogold"
check "and shows the usage on stderr" diff <("$cocogold" 2>&1 >/dev/null) <("$cocogold" --help)
dies "unknown command" "unknown command \"paint\"" paint

for command in $commands; do
    check "$command --help" "$cocogold" $command --help
    help=$("$cocogold" $command --help 2>/dev/null)
    check "$command: nothing on stderr" [ -z "$("$cocogold" $command --help 2>&1 >/dev/null)" ]
    check "$command: names itself" grep -q "^Usage: cocogold $command" <<<"$help"
    case $command in analyze) ;; *) check "$command: shows an example" grep -q "^  cocogold $command " <<<"$help" ;; esac
    check "$command: first describes the command" grep -qE '^[A-Z].*\. *Usage: ' <<<"$(tr '\n' ' ' <<<"$help")"
    check_not "$command: no option without a value has a default" grep -qE 'null\)|default: ""' <<<"$(tr -d '\n' <<<"$help")"
    dies "$command: unknown option" "--no-such-option: unknown option" $command --no-such-option
done

for question in latents leak starts arms; do
    help=$("$cocogold" analyze $question --help 2>/dev/null)
    check "analyze $question --help" grep -q "^Usage: cocogold analyze $question" <<<"$help"
    dies "analyze $question: unknown option" "--no-such-option: unknown option" analyze $question --no-such-option
done
train=$("$cocogold" train --help | tr -s ' \n' ' ')
check "train --help: what --validation-steps does" grep -q "writes them into the model as the default of segment and eval" <<<"$train"
for default in "--max-train-steps=N optimizer steps (default: 25000)" "--lr=RATE learning rate (default: 3e-05)" \
    "--train-batch-size=N samples per micro-batch and rank (0:" "a step of 32 samples on all ranks together needs" "--seed=N" "(default: 2024)" \
    "(default: \"exponential\")" "strength of multi-resolution noise (0: plain Gaussian) (default: 0.9)"; do
    check "train --help: $default" grep -qF -- "$default" <<<"$train"
done
finish
