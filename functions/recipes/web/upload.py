"""A form with a file, read by werkzeug, which is in the image."""

import io

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header


def parse(event):
    kind, options = parse_options_header(event.headers["Content-Type"])
    parser = FormDataParser(lambda **_: io.BytesIO(), silent=False)  # files stay in memory
    _, fields, files = parser.parse(io.BytesIO(event.body), kind, len(event.body), options)
    return fields["name"], files["upload"].read()


def handle_batch(uploads, context):
    return [{"name": name, "bytes": len(data)} for name, data in uploads]
