#!/bin/sh
# One change by HTTP, with nothing but curl; the answer is its outcome, the same again when it is sent twice.
#
# `refold up`, then `sh examples/any_language/curl.sh [http://127.0.0.1:8080]`

curl --silent --show-error --fail-with-body -X PATCH "${1:-http://127.0.0.1:8080}/v1/acme/order-curl" \
  -H 'Content-Type: application/json-patch+json' \
  -H 'Idempotency-Key: payment-77' -H 'Refold-Type: order.paid' -H 'Refold-Actor: till-3' \
  -d '[{"op": "add", "path": "/paid", "value": 17.5}, {"op": "add", "path": "/by", "value": "Zoë"}]'
