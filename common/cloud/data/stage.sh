# Starts a stage once, detached: its script lies in $1.sh, its output goes to $1.log, its exit code to $1.exit.
# Asked again, because an answer was lost, it does nothing.
cd "$HOME/lab-run" || exit 1
mkdir "$1.started" 2>/dev/null || exit 0
setsid bash -c 'bash "$1.sh" > "$1.log" 2>&1 < /dev/null; echo $? > "$1.exit.new"; mv "$1.exit.new" "$1.exit"' \
  stage "$1" </dev/null >/dev/null 2>&1 &
echo $! > stage.pid
