# Jetson. The base image brings ROS and CUDA of the JetPack; torch has to match it (docs/JETSON.md has the table).
#   docker build -f docker/jetson.Dockerfile -t vss_ros --build-arg TORCH=2.8.0 --build-arg INDEX=URL .
#   docker run --rm --runtime nvidia --shm-size=1g --network host vss_ros
# INDEX: NVIDIA's index of wheels for the board's JetPack. BASE: an image with ROS for the board's Jetson Linux.
ARG BASE=dustynv/ros:humble-ros-base-l4t-r36.4.0
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc python3-colcon-common-extensions python3-dev python3-libnvinfer \
       python3-venv \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH=2.8.0
ARG INDEX
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 VSS_CACHE=/var/cache/vss_ros
COPY config/constraints.txt /tmp/constraints.txt
# Engines are built from ONNX by TensorRT's own parser: no torch-tensorrt. What torch needs comes first: not every
# index of NVIDIA's holds it, and torch itself must not come from another.
RUN python3 -m venv --system-site-packages "$VIRTUAL_ENV" \
    && pip install -c /tmp/constraints.txt filelock fsspec jinja2 networkx sympy typing-extensions \
    && pip install -c /tmp/constraints.txt --index-url "${INDEX:?the index of wheels for this JetPack}" "torch==$TORCH" \
    && pip install -c /tmp/constraints.txt triton "onnx>=1.18,<2" "onnx-ir>=0.1.7,<2" "onnxscript>=0.5,<1" \
       "mcap>=1.6,<2" "numpy>=1.23" "opencv-python-headless>=4.8.1,!=4.10.*,!=4.11.*" "pyyaml>=6,<7" \
       "rosbags>=0.11,<0.12" "safetensors>=0.4,<1" "simplejpeg>=1.8,<2" "tqdm>=4.57,<5"

COPY . /ws/src/vss_ros
WORKDIR /ws
# DDS's shared memory serves one user: that of the nodes outside, where there are some
ARG ROBOT_UID=2000
RUN . "$(find "/opt/ros/$ROS_DISTRO" -maxdepth 2 -name setup.sh | sort | head -n 1)" \
    && python3 -m colcon build --packages-select vss_ros \
    && python3 -c "import cv2, mcap, numpy, rclpy, rosbags, safetensors, simplejpeg, torch, tqdm, yaml" \
    && useradd --uid "$ROBOT_UID" --non-unique --create-home --groups video robot \
    && install -d -o robot -g robot "$VSS_CACHE"

COPY --chmod=755 docker/entrypoint.sh /entrypoint.sh
USER $ROBOT_UID
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "vss_ros", "segment.launch.py"]
