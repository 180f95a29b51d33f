#!/bin/bash
# ROS, then our workspace, then whatever was asked for.
set -e
for setup in "/opt/ros/$ROS_DISTRO/install/setup.bash" "/opt/ros/$ROS_DISTRO/setup.bash" /ws/install/setup.bash; do
    if [ -f "$setup" ]; then
        # shellcheck disable=SC1090
        source "$setup"
    fi
done
exec "$@"
