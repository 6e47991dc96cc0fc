# rlscan on the CPU, with the tested versions; `docs/start/install.md` shows its use.
FROM python:3.11-slim
WORKDIR /rlscan
COPY . .
RUN python -m pip install --no-cache-dir -c constraints.txt '.[plot,export]'
RUN rlscan --version
WORKDIR /work
ENTRYPOINT ["rlscan"]
CMD ["--help"]
