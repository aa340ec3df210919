# Three ways in turn, because none is promised: the REST API, Runpod's own command, GraphQL. All with the pod's own
# key, which Runpod puts into the pod and which can end this pod. Where the container began is its first process.
lab_environment() { tr '\0' '\n' < /proc/1/environ 2>/dev/null | sed -n "s/^$1=//p" | head -n 1; }

end_machine() {
  local key pod
  key=${RUNPOD_API_KEY:-$(lab_environment RUNPOD_API_KEY)}
  pod=${RUNPOD_POD_ID:-$(lab_environment RUNPOD_POD_ID)}
  printf 'Authorization: Bearer %s' "$key" \
    | curl -fsS -m 20 -X DELETE -H @- "$LAB_API/v2/pods/$pod" >/dev/null 2>&1
  sleep 1
  runpodctl remove pod "$pod" >/dev/null 2>&1
  sleep 1
  printf 'Authorization: Bearer %s' "$key" \
    | curl -fsS -m 20 -X POST -H @- -H 'Content-Type: application/json' \
      -d "{\"query\":\"mutation { podTerminate(input: {podId: \\\"$pod\\\"}) }\"}" "$LAB_GRAPHQL" >/dev/null 2>&1
}
