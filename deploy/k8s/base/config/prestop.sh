#!/bin/sh
# Hands leadership over before the pod stops, so that no write waits for an election.
#
# It never fails: kvd itself hands over on SIGTERM, and a hook that fails would only be logged.
set -u

# "endpoint status": the columns after the endpoint begin with the ID; "true" or "false" for
# leader is the first of the two booleans.
status=$(kvctl endpoint status 2>/dev/null) || exit 0
own=$(printf '%s\n' "$status" | cut -d, -f2 | tr -d ' ')
leads=$(printf '%s\n' "$status" | tr -d ' ' | tr ',' '\n' | grep -m1 -E '^(true|false)$')
[ "$leads" = true ] || exit 0

# The members that have started and vote, but for this one.
kvctl member list 2>/dev/null | tr -d ' ' | grep ',started,.*,false$' | cut -d, -f1 |
  while read -r member; do
    [ "$member" != "$own" ] || continue
    if kvctl move-leader "$member"; then break; fi
  done
exit 0
