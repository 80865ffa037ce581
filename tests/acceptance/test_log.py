"""healctl's own log of a real incident: JSON where nobody looks, text where the configuration says so (NFR-002)."""

from __future__ import annotations

import msgspec
import pytest

from tests.lab.daemon import Site, until


@pytest.mark.req("NFR-002", "FR-004")
def test_a_log_in_a_file_is_json_and_tells_an_incident_s_course_by_its_id(here: Site) -> None:
    web = here.service("web")
    web.start()
    daemon = here.daemon(web.toml(auto_restart=False))
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text.replace('log_format = "text"\n', ""))
    daemon.start()
    daemon.wait_known(web)
    web.kill()
    (row,) = daemon.wait_state("web", "escalated")
    course = [f"web is {entry['state']}" for entry in row["audit_trail"]]

    def told() -> bool:
        lines = [msgspec.json.decode(raw) for raw in daemon.log.read_bytes().splitlines()]
        assert all({"time", "level", "worker", "message"} <= set(line) for line in lines)
        said = [line["message"] for line in lines if line.get("incident") == row["id"]]
        return len(said) >= len(course) and all(words in line for words, line in zip(course, said, strict=False))

    until("the whole course, by its id", told)
    daemon.config_file.write_text(text)
    daemon.cli("reload")
    until("from the reload on it is text", lambda: " info [root] reloaded: " in daemon.tail())
    daemon.stop()
