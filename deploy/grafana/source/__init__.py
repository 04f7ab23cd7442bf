"""The dashboards as code; what ships is the JSON that it writes."""
