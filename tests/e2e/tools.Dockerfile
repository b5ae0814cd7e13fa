# etcdctl, unmodified, and a program that keeps its pod alive; both are static.
FROM scratch
COPY etcdctl busybox /bin/
USER 65532:65532
ENV PATH=/bin
ENTRYPOINT ["/bin/busybox", "sleep", "1000000"]
