"""An answer of PaaSoo's to a question about a message, as public programs show it."""

ID = "0159c3-d7ce15-64e"
NUMBER = "8613800138000"
SAMPLE = {
    "type": "dlr",
    "messageid": ID,
    "to": NUMBER,
    "status": 0,
    "drStatus": 0,
    "drStatuscode": "delivered",
    "drErrcode": None,
    "price": 0.05,
    "counts": 1,
}
