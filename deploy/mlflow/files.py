"""Back up or restore the files of the MLflow server as a tar stream, in its own pod: see deploy/README.md."""

import os
import sys
import tarfile

import boto3

bucket = boto3.resource("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]).Bucket("mlflow")
if sys.argv[1] == "backup":
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for entry in bucket.objects.all():
            about = tarfile.TarInfo(entry.key)
            about.size = entry.size
            archive.addfile(about, entry.get()["Body"])
else:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for about in archive:
            bucket.put_object(Key=about.name, Body=archive.extractfile(about).read())
