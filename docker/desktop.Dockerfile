# ROS 2 Jazzy, torch with CUDA and TensorRT for a desktop or server GPU (x86-64, driver 580 or newer).
#   docker build -f docker/desktop.Dockerfile -t vss_ros .
#   docker run --rm --gpus all --shm-size=1g --network host vss_ros
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc python3-colcon-common-extensions python3-dev python3-venv \
       python3-numpy python3-opencv python3-yaml ros-jazzy-bondpy ros-jazzy-cv-bridge ros-jazzy-vision-msgs \
    && rm -rf /var/lib/apt/lists/*

# torch and torch-tensorrt are a pair: vss_ros/backends/gpu/versions.py
ARG TORCH=2.13.0
ARG TORCH_TENSORRT=2.13.0
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 VSS_CACHE=/var/cache/vss_ros
COPY config/constraints.txt /tmp/constraints.txt
RUN python3 -m venv --system-site-packages "$VIRTUAL_ENV" \
    && pip install -c /tmp/constraints.txt "torch==$TORCH" "torch-tensorrt==$TORCH_TENSORRT" \
       "openvino>=2025.3,<2027" "onnxruntime>=1.22,<2" "onnx>=1.18,<2" "onnx-ir>=0.1.7,<2" "onnxscript>=0.5,<1" \
       "mcap>=1.6,<2" "rosbags>=0.11,<0.12" "safetensors>=0.4,<1" "simplejpeg>=1.8,<2" "tqdm>=4.57,<5"

COPY . /ws/src/vss_ros
WORKDIR /ws
# DDS's shared memory serves one user: that of the nodes outside, where there are some
ARG ROBOT_UID=2000
RUN . /opt/ros/jazzy/setup.sh \
    && python3 -m colcon build --packages-select vss_ros \
    && python3 -c "import cv2, mcap, numpy, rclpy, rosbags, safetensors, simplejpeg, torch, tqdm, yaml" \
    && useradd --uid "$ROBOT_UID" --non-unique --create-home --groups video robot \
    && install -d -o robot -g robot "$VSS_CACHE"

COPY --chmod=755 docker/entrypoint.sh /entrypoint.sh
USER $ROBOT_UID
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "vss_ros", "segment.launch.py"]
