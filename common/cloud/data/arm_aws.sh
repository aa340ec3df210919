# Runs at every boot, before the network: an absolute timer that powers off, and the watch for an idle machine. The
# instance was made with shutdown behaviour "terminate", so powering off ends it. `halt` would not.
cat > "${LAB_ETC:-/etc}"/systemd/system/lab-end.service <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'systemctl poweroff --no-block; sleep 60; poweroff --force'
UNIT
cat > "${LAB_ETC:-/etc}"/systemd/system/lab-end.timer <<UNIT
[Timer]
OnCalendar=$(date -u -d "@$LAB_DEADLINE" '+%Y-%m-%d %H:%M:%S') UTC
Persistent=true
AccuracySec=1s
[Install]
WantedBy=timers.target
UNIT
cat > "${LAB_ETC:-/etc}"/systemd/system/lab-deadman.service <<UNIT
[Unit]
After=network.target
[Service]
ExecStart=/bin/bash /etc/lab-deadman.sh
Restart=always
RestartSec=5
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable lab-end.timer lab-deadman.service
systemctl start --no-block lab-end.timer lab-deadman.service
