# The machine's own end: armed before anything else, and never disarmed. It ends the machine at an absolute time, or
# after so many seconds of its own clock (whichever comes first, because a clock may be wrong), or when all GPUs have
# idled and no stage of the lab runs. Then it tries the ways that follow, for ever.
# Set before this: LAB_DEADLINE (epoch s), LAB_SECONDS, LAB_IDLE_S, LAB_GRACE_S, LAB_POLL_S, LAB_HOME; end_machine().

lab_uptime() { cut -d. -f1 /proc/uptime; }

lab_received() { cat /proc/net/dev 2>/dev/null | awk -F'[: ]+' 'NR > 2 && $2 != "lo" {sum += $3} END {printf "%d", sum}'; }

lab_busy() {  # a stage of ours runs, a GPU works, or something is being downloaded (1 MB per second)
  local pid most received
  pid=$(cat "$LAB_HOME/stage.pid" 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && return 0
  most=$(nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null | sort -n | tail -n 1)
  [ "${most:-0}" -ge 5 ] 2>/dev/null && return 0
  received=$(lab_received)
  if [ $((received - ${lab_before:-$received})) -gt $((1000000 * LAB_POLL_S)) ]; then lab_before=$received; return 0; fi
  lab_before=$received
  return 1
}

lab_wait() {
  local born last now up
  born=$(lab_uptime); last=$((born + LAB_GRACE_S))
  while :; do
    now=$(date +%s); up=$(lab_uptime)
    [ "$now" -ge "$LAB_DEADLINE" ] && return
    [ $((up - born)) -ge "$LAB_SECONDS" ] && return
    if lab_busy; then [ "$up" -gt "$last" ] && last=$up; fi
    [ $((up - last)) -ge "$LAB_IDLE_S" ] && return
    sleep "$LAB_POLL_S"
  done
}

lab_deadman() {
  trap '' HUP INT TERM
  lab_wait
  while :; do end_machine; sleep "$LAB_POLL_S"; done
}
