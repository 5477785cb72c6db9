# Two images from one file: `--target label-studio` and `--target backend`, each with the locked versions that
# the tests run with.

FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/venv/bin:$PATH
# The data directories exist before the volumes are mounted, so that these take over their owner.
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --no-create-home --home-dir /tmp app \
    && install --directory --owner=app --group=app --mode=0700 /data \
    && python -m venv /venv

FROM base AS label-studio
COPY requirements/label-studio.txt /requirements/
RUN pip install --no-cache-dir -r /requirements/label-studio.txt
USER 10001:10001
WORKDIR /data
EXPOSE 8080
CMD ["label-studio", "start", "--no-browser", "--internal-host", "0.0.0.0", "--port", "8080"]

FROM base AS backend
# Empty: the index's own build of torch, which runs with and without a GPU (large).
ARG TORCH_INDEX=""
COPY requirements/backend.txt requirements/torch.txt requirements/no-dependencies.txt /requirements/
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        -r /requirements/torch.txt -r /requirements/backend.txt \
    && pip install --no-cache-dir --no-deps -r /requirements/no-dependencies.txt
COPY label_config /app/label_config
COPY trainers /app/trainers
COPY backend /app/backend
COPY scripts /app/scripts
ENV PYTHONPATH=/app \
    HF_HOME=/data/huggingface \
    DATA_DIR=/data
USER 10001:10001
WORKDIR /data
EXPOSE 9090
CMD ["python", "-m", "backend", "serve"]
