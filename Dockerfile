# kd-env for a GPU: docker build -t kd-env . && docker run --gpus all -v "$PWD/runs:/data/runs" kd-env train device=cuda
# torch brings CUDA's libraries; of the host it needs the driver and NVIDIA's container runtime.
FROM python:3.11-slim
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility PIP_NO_CACHE_DIR=1 KD_ENV_RUNS=/data/runs
WORKDIR /source
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY kd_env ./kd_env
COPY kd_files ./kd_files
COPY agents ./agents
COPY cli ./cli
COPY configs ./configs
RUN pip install -c constraints.txt ".[sb3-contrib,tune]"
WORKDIR /data
ENTRYPOINT ["kd-env"]
CMD ["--help"]
