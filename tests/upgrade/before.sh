# What has happened on a machine before its package is upgraded: tables in a store and in a directory, maintained by the service; a
# pause; a configuration that a person has changed; and three processes that were killed in the middle.
mkdir -p /srv/lance/plain /etc/systemd/system/squire.service.d
squire init /srv/lance/s
printf '[{"name":"id","type":"int64"}]' > /srv/schema.json
for table in t u; do squire create /srv/lance/s $table --schema /srv/schema.json; done
write() { # TABLE FROM TO
  for id in $(seq "$2" "$3"); do echo "{\"id\":$id}" | squire write /srv/lance/s "$1" - --format ndjson --actor before; done
}
write t 0 17
write u 0 1
echo '{"id":100}' | squire write /srv/lance/s t - --format ndjson --batch-id day-1 --message 'the first day'
squire index /srv/lance/s t id --type btree
squire keep /srv/lance/s monday
cp -r /srv/lance/s/t.lance /srv/lance/plain/p.lance
chown -R squire: /srv/lance
printf '[Service]\nReadWritePaths=/srv/lance\n' > /etc/systemd/system/squire.service.d/tables.conf
install -m 400 -o squire /dev/null /etc/squire/token; echo before > /etc/squire/token
sed -i 's|^\[daemon\]$|[daemon]\ntoken_file = "/etc/squire/token"\ngrace = "1s"|' /etc/squire/squire.toml
cat >> /etc/squire/squire.toml <<END

# Ours.
[[table]]
name = "t"
min_versions = 7
[[watch]]
uri = "/srv/lance/s"
[[watch]]
uri = "/srv/lance/plain"
END
systemctl daemon-reload
systemctl start squire
for location in s plain; do
  until squire history /srv/lance/$location --json | grep -q '"compact"'; do sleep 1; done
done
squire pause /srv/lance/s --table u --reason 'an audit' --token-file /etc/squire/token
systemctl stop squire

# A batch whose tables have all landed, one of which only the first has, and a compaction that nobody published.
batch() { # NUMBER SEAM
  mkdir "/srv/batch$1"
  for table in t u; do echo "{\"id\":$1}" > "/srv/batch$1/$table.1.ndjson"; done
  ! FAILPOINTS="$2=return(kill)" runuser -u squire -- squire commit /srv/lance/s "/srv/batch$1" --actor before
}
for id in $(seq 20 36); do echo "{\"id\":$id}" | runuser -u squire -- squire write /srv/lance/s t - --format ndjson --actor before; done
! FAILPOINTS='maintain.after_compact=return(kill)' runuser -u squire -- squire optimize /srv/lance/s --table t
batch 1000 write.after_phase_b
batch 2000 write.after_commit_table
