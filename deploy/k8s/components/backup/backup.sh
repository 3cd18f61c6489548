#!/bin/sh
# Saves a snapshot and keeps the newest KEEP (24) of them.
set -eu
keep=${KEEP:-24}
name=kvd-$(date -u +%Y%m%dT%H%M%SZ).db

# Under another name until it is whole: the drill and the copy take *.db only.
kvctl snapshot save "/backup/$name.part"
kvutl snapshot status "/backup/$name.part"
mv "/backup/$name.part" "/backup/$name"
rm -f /backup/*.db.part

number=0
for file in $(ls -1r /backup | grep '^kvd-.*\.db$'); do
  number=$((number + 1))
  if [ "$number" -gt "$keep" ]; then rm "/backup/$file"; fi
done
echo "saved $name, $(ls -1 /backup | grep -c '^kvd-.*\.db$') kept"
