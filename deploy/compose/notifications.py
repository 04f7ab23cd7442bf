"""Prints what Alertmanager sends to its webhooks, a line an alert, in place of a pager and a chat."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Webhook(BaseHTTPRequestHandler):
    """A receiver of alertmanager.yml, named by the path."""

    def do_POST(self) -> None:
        """Print the alerts of a notification."""
        notification = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in notification["alerts"]:
            labels, summary = alert["labels"], alert["annotations"].get("summary", "")
            print(f"{self.path[1:]}: {alert['status']} {labels['severity']} {labels['alertname']}: {summary}")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Leave out the line about the request."""


signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the first process of a container has no default
HTTPServer(("127.0.0.1", int(sys.argv[1])), Webhook).serve_forever()
