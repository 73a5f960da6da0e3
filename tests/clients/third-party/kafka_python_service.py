"""Stands in for the module `test.service` of kafka-python's integration tests, which its releases leave out.

Their fixtures take a broker that runs already as an ExternalService (KAFKA_URI); starting brokers of their own is not
offered, so tests that ask for one with TLS or SASL cannot run.
"""


class ExternalService:
    """A broker that somebody else started: nothing to do."""

    def __init__(self, host, port):
        self.host = host
        self.port = port

    def open(self):
        pass

    def stop(self):
        pass

    def close(self):
        pass

    def dump_logs(self):
        pass

    def wait_for(self, pattern, timeout=30):
        return True


class SpawnedService:
    """Only named by the fixtures."""

    def __init__(self, args=None, env=None):
        raise NotImplementedError("these tests use a broker that runs already")
