"""`docker/`: what can be said of it without a container engine, and its commands, started as processes."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import date, timedelta
from functools import cache
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path
from time import sleep
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from teei_ingest.companies import load_companies
from teei_ingest.sandbox.server import Running
from teei_ingest.settings import SANDBOX_FILE, Settings, decode_master_key
from teei_ingest.vault.credentials import resolve
from teei_ingest_tests.composed import (
    ALL,
    COMPOSE,
    CONFIGURATION,
    DOCKER,
    OF_CELERY,
    SERVICES,
    WITH_CELERY,
    Composed,
    composed,
    dockerfile,
    json_list,
    sandbox_addresses,
)
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.dagster_parts import BIN, ROOT, days, keys
from teei_ingest_tests.deployed import stored, without_postgres
from teei_ingest_tests.feeding import ACME
from teei_ingest_tests.gateways import GLOBEX, Calling, token
from teei_ingest_tests.together import eventually

SECRET = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|CREDENTIAL")


def example_settings() -> dict[str, str]:
    lines = (DOCKER / "settings/example.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


each_service = pytest.mark.parametrize("name", ALL["services"])
each_file = pytest.mark.parametrize("file", [COMPOSE, OF_CELERY, ALL], ids=["alone", "celery", "both"])


# --- the file ---------------------------------------------------------------------------------------------------------


@cache
def schema() -> dict[str, Any]:
    """The Compose Specification's, as a well-known validator ships it."""
    text = (files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.fleet
@each_file
def test_compose_keeps_to_the_published_schema(file: dict[str, Any]) -> None:
    jsonschema.validate(file, schema())


@pytest.mark.fleet
@pytest.mark.parametrize(
    "spoilt", [{"privilegd": True}, {"ports": "3000"}, {"deploy": {"resources": {"limits": {"memory": 5}}}}]
)
def test_the_schema_would_notice(spoilt: dict[str, Any]) -> None:
    changed = deepcopy(COMPOSE)
    changed["services"]["code"] |= spoilt
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, schema())


@each_service
def test_a_container_can_do_no_more_than_it_has_to(name: str) -> None:
    service = WITH_CELERY[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["core"] == 0
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service.keys().isdisjoint({"privileged", "cap_add", "pid", "ipc", "devices"})
    assert service.get("user", "postgres") in ("postgres", "redis")  # the images' own, of which none is root


@each_service
def test_a_container_is_started_again_or_ends_for_good(name: str) -> None:
    service = WITH_CELERY[name]
    if service["restart"] == "no":
        waits = [one for one in WITH_CELERY.values() if name in one.get("depends_on", {})]
        assert waits and all(one["depends_on"][name]["condition"] == "service_completed_successfully" for one in waits)
    else:
        assert service["restart"] == "unless-stopped"
        assert "test" in service["healthcheck"] or "sandbox" in name


@each_service
def test_what_a_container_waits_for_is_there(name: str) -> None:
    for other, how in WITH_CELERY[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "test" in WITH_CELERY[other]["healthcheck"]
        is_optional = set(WITH_CELERY[other].get("profiles", [])) - set(WITH_CELERY[name].get("profiles", []))
        assert not is_optional or how["required"] is False, "a profile that is off would keep it from starting"


@each_service
def test_who_is_not_ours_reaches_neither_code_nor_tables(name: str) -> None:
    is_ours = WITH_CELERY[name]["image"].startswith("teei-ingest") or name == "postgres"
    theirs = set() if is_ours else set(WITH_CELERY[name]["networks"])
    assert theirs.isdisjoint(WITH_CELERY["code"]["networks"]), "the code location does what it is told by anybody"
    assert theirs.isdisjoint(WITH_CELERY["postgres"]["networks"])
    assert ALL["networks"]["database"]["internal"]


@each_service
def test_ports_are_on_loopback(name: str) -> None:
    for port in WITH_CELERY[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@each_service
def test_no_secret_is_in_the_environment(name: str) -> None:
    service = WITH_CELERY[name]
    given = dict(service.get("environment", {}))
    for entry in service.get("env_file", []):
        assert entry == {"path": "settings/teei.env", "required": False}
        given |= example_settings()
    for variable, value in given.items():
        if SECRET.search(variable):
            assert variable.endswith("_FILE") and value.startswith("/run/secrets/"), variable
    command = json.dumps(service.get("command", [])).replace("/run/secrets/", "")
    assert not SECRET.search(command.upper())


@each_service
def test_what_is_mounted_exists(name: str) -> None:
    documented = (ROOT / "docs/deployment.md").read_text()
    for mount in WITH_CELERY[name].get("volumes", []):
        source, target, *mode = mount.split(":")
        if source.startswith("./"):
            assert (DOCKER / source).exists(), source
            assert mode == ["ro"], mount
        else:
            assert source in ALL["volumes"], source
        assert target.startswith("/")
    for secret in WITH_CELERY[name].get("secrets", []):
        source = secret if isinstance(secret, str) else secret["source"]
        path = ALL["secrets"][source]["file"]
        assert path in documented, "whoever sets it up has to be told to make it"
        ignored = subprocess.run(["git", "check-ignore", "--quiet", f"docker/{path}"], cwd=ROOT)
        assert ignored.returncode == 0, "or it would be committed"


def test_each_sandbox_is_in_the_network_of_who_reads_it() -> None:
    readers = {SERVICES[name].get("network_mode") for name in ("sandbox", "sandbox-code")}
    assert readers == {"service:gateway", "service:code"}
    for name in ("sandbox", "sandbox-code"):
        reader = SERVICES[name]["network_mode"].removeprefix("service:")
        assert "sandbox-home" in SERVICES[reader]["depends_on"], "which reads at its start where the sandbox is"


def test_the_example_s_settings_take_secrets_from_files(tmp_path: Path) -> None:
    given = {"TEEI_MASTER_KEY": MASTER_KEY, "BENEVITY_ACME_CORP_CLIENT_SECRET": "of a file"}
    for name, value in given.items():
        (tmp_path / name).write_text(f"{value}\n")
    (tmp_path / "companies.yaml").write_text(
        yaml.safe_dump({"companies": [{"id": ACME.id, "slug": ACME.slug, "name": "Acme", "systems": ["benevity"]}]})
    )
    environ = {
        name: re.sub("^/(etc|run/secrets)/teei", str(tmp_path), value) for name, value in example_settings().items()
    }
    settings = Settings.load(environ | {"TEEI_HOME": str(tmp_path / "home")})
    companies = load_companies(settings)
    assert settings.master_key_bytes() == decode_master_key(MASTER_KEY)
    assert resolve(settings, companies, companies.get(ACME.slug), "benevity").client_secret == "of a file"


# --- the image --------------------------------------------------------------------------------------------------------


@pytest.mark.fleet
def test_the_dockerfile_has_no_fault_that_the_linter_knows() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_not_roots_and_is_well_by_the_same_check_as_compose_s() -> None:
    instructions = dockerfile()
    last = [name for name, _ in instructions].count("FROM")
    assert last > 1, "what builds is not in the image"
    given = dict(instructions)  # the last of each name
    assert given["USER"] == "10001:10001"
    assert SERVICES["prometheus"]["group_add"] == ["10001"]
    assert json_list(given["CMD"]) == SERVICES["code"]["command"]
    assert ["CMD", *json_list(given["HEALTHCHECK"])] == SERVICES["code"]["healthcheck"]["test"]
    assert not SECRET.search(given["ENV"])


def test_what_the_image_copies_is_let_into_the_build_and_nothing_else_is() -> None:
    ignored, *lines = [one for one in (ROOT / ".dockerignore").read_text().splitlines() if one[0] not in "#"]
    assert ignored == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source
        for name, rest in dockerfile()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert {f"docker/{name}" for name in CONFIGURATION} <= copied


def names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def needed(requirements: Iterable[str]) -> set[str]:
    """Names of all packages that these bring, as installed here."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(one) for one in requirements]
    while todo:
        one = todo.pop()
        for extra in one.extras or {""}:
            if (place := (canonicalize_name(one.name), extra)) not in found:
                found.add(place)
                more = map(Requirement, requires(one.name) or [])
                todo += [each for each in more if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.fleet)])
def test_the_image_has_what_the_extras_need_in_locked_versions_and_no_developer_s_tool(more: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    text = (DOCKER / "Dockerfile").read_text()
    chosen = dict(rest.split("=") for name, rest in dockerfile() if name == "ARG")["EXTRAS"].split(",")
    chosen += re.findall(r"More: (.*)\.", text)[0].split(", ") if more else []
    locks = [(ROOT / name).read_text() for name in re.findall(r"--constraint (\S+)", text)]
    locked = set(names(line for lock in locks for line in lock.splitlines()))

    asked = [*project["dependencies"], *(one for extra in chosen for one in extras[extra])]
    found = needed(asked)
    assert found <= locked, "pip would choose a version by itself"
    assert found.isdisjoint(names(extras["dev"]) - names(asked) - {"teei-ingest"})
    assert {"fastapi", "faker", "hvac", "boto3", "psycopg2-binary", "dagster-webserver"} <= found
    assert not re.search(r"https?://|--index|--find", "".join(locks) + text)


# --- Dagster's and Prometheus' settings -------------------------------------------------------------------------------


def test_dagster_s_settings_are_the_project_s_but_for_what_a_server_and_containers_change() -> None:
    ours = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    projects = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for name in ("storage", "local_artifact_storage", "run_launcher"):
        del ours[name]
    del ours["run_monitoring"]["poll_interval_seconds"]
    del ours["run_coordinator"]["config"]["max_user_code_failure_retries"]
    del ours["run_coordinator"]["config"]["user_code_failure_retry_delay"]
    assert ours == projects


def test_celery_s_settings_differ_by_the_launcher_and_how_long_a_run_may_wait_for_it() -> None:
    ours, celery_s = (yaml.safe_load((DOCKER / name).read_text()) for name in ("dagster.yaml", "celery/dagster.yaml"))
    assert ours.pop("run_launcher") != celery_s.pop("run_launcher")
    for name in ("poll_interval_seconds", "start_timeout_seconds"):
        assert ours["run_monitoring"].pop(name) != celery_s["run_monitoring"].pop(name)
    assert celery_s == ours


def test_the_queue_lets_as_many_runs_go_as_workers_have_processes() -> None:
    queue = yaml.safe_load((DOCKER / "celery/dagster.yaml").read_text())["run_coordinator"]["config"]
    command, workers = WITH_CELERY["worker"]["command"], WITH_CELERY["worker"]["deploy"]["replicas"]
    processes = int(command[command.index("--concurrency") + 1])
    assert queue["max_concurrent_runs"] == workers * processes


def test_a_worker_has_what_the_code_location_has() -> None:
    worker, code = WITH_CELERY["worker"], WITH_CELERY["code"]
    for name in ("environment", "env_file", "volumes", "tmpfs", "image"):
        assert worker[name] == code[name], name
    assert set(worker["secrets"]) >= set(code["secrets"])
    for name in ("worker", "daemon", "webserver"):  # who hands runs out, carries them out, ends them
        assert "queue" in WITH_CELERY[name]["networks"]
    assert ALL["networks"]["queue"]["internal"]


@pytest.mark.parametrize(
    ("name", "launcher"),
    [("dagster.yaml", "WatchedRunLauncher"), ("celery/dagster.yaml", "WatchedCeleryLauncher")],
)
def test_dagster_takes_its_settings(tmp_path: Path, name: str, launcher: str) -> None:
    from dagster._core.instance.config import dagster_instance_config

    (tmp_path / "dagster.yaml").write_text((DOCKER / name).read_text())
    found, _ = dagster_instance_config(str(tmp_path))
    assert found["run_launcher"]["class"] == launcher


def test_prometheus_in_a_container_differs_by_its_addresses_alone() -> None:
    here, container = ((DOCKER / f"prometheus/{name}.yml").read_text() for name in ("prometheus", "containers"))
    scrape = yaml.safe_load(container)["scrape_configs"][0]
    (mounted,) = SERVICES["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == mounted["target"]
    addressed = here.replace("127.0.0.1:9093", "alertmanager:9093").replace("127.0.0.1:3007", "gateway:3007")
    assert yaml.safe_load(addressed) == yaml.safe_load(container)


def test_alertmanager_s_secrets_are_where_it_looks_for_them() -> None:
    settings = (DOCKER / "alertmanager/alertmanager.yml").read_text()
    mounted = {one["target"] for one in SERVICES["alertmanager"]["secrets"]}
    assert set(re.findall(r"_file: (\S+)", settings)) == mounted


def test_grafana_finds_its_dashboard_and_its_data() -> None:
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/teei.yml").read_text())["providers"]
    folders = {mount.split(":")[1].rpartition("/")[0] for mount in SERVICES["grafana"]["volumes"]}
    assert provider["options"]["path"] in folders
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and source["isDefault"]


# --- Kubernetes -------------------------------------------------------------------------------------------------------

VALUES = yaml.safe_load((DOCKER / "kubernetes/values.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((DOCKER / "kubernetes/gateway.yaml").read_text()))
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
QUEUE = VALUES["dagsterDaemon"]["runCoordinator"]["config"]["customRunCoordinator"]
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
(GATEWAY,) = (one["spec"]["template"]["spec"] for one in MANIFESTS if one["kind"] == "Deployment")


def in_snake_case(given: Mapping[str, Any]) -> dict[str, Any]:
    """The launcher's configuration, as the chart's template makes it of its values."""
    made = {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name): value for name, value in given.items()}
    made |= {name: [one["name"] for one in made[name]] for name in ("env_config_maps", "env_secrets")}
    inner = {"containerConfig": "container_config", "podSpecConfig": "pod_spec_config"}
    inner |= {"jobSpecConfig": "job_spec_config", "jobMetadata": "job_metadata"}
    return made | {"run_k8s_config": {inner[name]: value for name, value in made["run_k8s_config"].items()}}


@pytest.mark.fleet
def test_the_launcher_of_kubernetes_takes_its_settings() -> None:
    import dagster_k8s as launchers
    from dagster._config import process_config
    from kubernetes import client

    chart_s = {"dagster_home": VALUES["global"]["dagsterHome"], "instance_config_map": "teei-dagster-instance"}
    chart_s |= {"postgres_password_secret": "dagster-postgresql-secret", "service_account_name": "teei-dagster"}
    given = in_snake_case(LAUNCHER) | chart_s
    found = process_config(launchers.K8sRunLauncher.config_type(), given)
    assert found.success, found.errors
    models = {"pod_spec_config": client.V1PodSpec, "job_spec_config": client.V1JobSpec}
    for name, model in models.items():
        assert launchers.models.k8s_snake_case_dict(model, given["run_k8s_config"][name])
    spoilt = process_config(launchers.K8sRunLauncher.config_type(), given | {"resource": {}})
    assert not spoilt.success


@pytest.mark.fleet
def test_kubernetes_takes_what_the_chart_does_not_make() -> None:
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
    from kubernetes import client

    for manifest in MANIFESTS:
        model = getattr(client, f"V1{manifest['kind']}")
        made = k8s_model_from_dict(model, k8s_snake_case_dict(model, manifest))
        assert made.metadata.name.startswith("teei-")
        with pytest.raises(Exception, match="spce"):
            k8s_snake_case_dict(model, manifest | {"spce": {}})


def test_kubernetes_has_the_settings_that_compose_has() -> None:
    composes = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    more = VALUES["additionalInstanceConfig"]
    assert {name: composes[name] for name in more} == more
    for name in ("run_monitoring", "run_retries"):  # the chart would make its own beside them
        assert not VALUES["dagsterDaemon"][in_camel_case(name)]["enabled"]
    assert not VALUES["retention"]["enabled"]
    theirs = composes["run_coordinator"]
    assert QUEUE | {"config": QUEUE["config"] | {"max_concurrent_runs": 4}} == theirs
    daemon = dict(SERVICES["daemon"]["environment"]) | VALUES["dagsterDaemon"]["env"]
    assert daemon == SERVICES["daemon"]["environment"]
    assert VALUES["computeLogManager"]["type"] == "NoOpComputeLogManager"


def test_what_has_the_home_is_on_one_node_and_may_do_no_more_than_it_has_to() -> None:
    (gateway,) = GATEWAY["containers"]
    runs = LAUNCHER["runK8sConfig"]["podSpecConfig"]
    assert CODE["nodeSelector"] == GATEWAY["nodeSelector"] == runs["nodeSelector"] != {}
    assert CODE["podSecurityContext"] == GATEWAY["securityContext"] == runs["securityContext"]
    assert runs["securityContext"]["runAsNonRoot"] is True
    for one in (CODE, LAUNCHER, gateway, VALUES["dagsterWebserver"], VALUES["dagsterDaemon"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert one["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in one["resources"]["limits"]
    mounts = {one["mountPath"] for one in CODE["volumeMounts"]}
    assert mounts == {one["mountPath"] for one in LAUNCHER["volumeMounts"]}
    assert mounts <= {one["mountPath"] for one in gateway["volumeMounts"]}
    assert gateway["command"] == SERVICES["gateway"]["command"]
    (settings,) = (one["data"] for one in MANIFESTS if one["metadata"]["name"] == "teei-settings")
    for variable, value in settings.items():
        assert not SECRET.search(variable) or (variable.endswith("_FILE") and value.startswith("/run/secrets/"))


def in_camel_case(name: str) -> str:
    return re.sub("_(.)", lambda found: found[1].upper(), name)


# --- the commands -----------------------------------------------------------------------------------------------------

FIRST = date(2024, 1, 15)
ACME_CORP, GLOBEX_INC = "acme-corp", "globex-inc"
Playing = tuple[Composed, Running]


@pytest.fixture(scope="module")
def playing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playing]:
    """All services, in the order in which they wait for one another, and the sandbox, which has no bad records."""
    with composed(tmp_path_factory.mktemp("container")) as parts:
        made = parts.begin("sandbox-home")
        assert parts.begin("migrate").wait(60) == 0
        assert made.wait(60) == 0
        assert {path.name for path in parts.home.iterdir()} == {SANDBOX_FILE}, "migrate has no volume"
        # Its answers take a while, so that a run is there to be disturbed.
        parts.start("sandbox", "--bad-ratio", "0", "--latency", "150")
        eventually(lambda: all(sandbox_addresses(parts.logs["sandbox"])), "the sandbox serves")
        parts.start("code")
        parts.await_health("code")
        for service in ("webserver", "daemon", "gateway"):
            parts.start(service)
        companies = {ACME_CORP, GLOBEX_INC}
        eventually(lambda: companies <= set(parts.deployment.ask.companies()), "the sensor has added the companies")
        parts.await_health("webserver", "gateway", "daemon")
        yield parts, Running(*sandbox_addresses(parts.logs["sandbox"]), pid=0)


def assert_exact(playing: Playing, over: Sequence[date], again: Mapping[str, Callable[[], bool]]) -> None:
    """Each company's days have what the sandbox has, once, and doing them again, undisturbed, changes nothing."""
    parts, sandbox = playing
    disturbed = parts.complete(sandbox, list(again), over)
    for slug, sync in again.items():
        sandbox.reset()
        assert sync(), slug
        assert sandbox.stats(), "it was read again"
    assert stored(parts.deployment) == disturbed
    assert parts.is_work_untouched(), "DAGSTER_HOME is read-only in a container"


@pytest.mark.fleet
@pytest.mark.timeout(1500)
def test_each_part_is_killed_in_the_middle_of_a_backfill_which_is_exact(playing: Playing) -> None:
    over = days(FIRST, 2)
    parts, _ = playing
    deployment = parts.deployment

    backfill = deployment.backfill([each for slug in (ACME_CORP, GLOBEX_INC) for each in keys(slug, over)])
    parts.restart("daemon")
    killed = {run.identity for run in parts.going_on(backfill)}
    for service in ("code", "webserver", "gateway", "daemon"):
        parts.restart(service)
    parts.await_health("webserver")
    assert deployment.ended(backfill, 1200) == "COMPLETED_SUCCESS"

    runs = deployment.runs_of(backfill)
    assert {run.identity for run in runs if run.status == "FAILURE"} >= killed
    done = sorted(run.company for run in runs if run.status == "SUCCESS")
    assert done == [ACME_CORP, GLOBEX_INC], "one run a company, once"
    parts.await_health("code", "gateway", "daemon")

    def by_command() -> bool:
        window = ("--from", f"{over[0]}", "--to", f"{over[-1]}")
        return parts.execute("code", "teei", "sync", "--company", ACME_CORP, *window) == 0

    def by_call() -> bool:
        bearer, _ = token(parts.home)
        window: dict[str, Any] = {"since": f"{over[0]}", "until": f"{over[-1] + timedelta(1)}"}
        answer = Calling(f"http://127.0.0.1:{parts.ports['3007']}", parts.home, bearer).post("all", GLOBEX, **window)
        return bool(answer.status_code == 200 and answer.json()["success"])

    assert_exact(playing, over, {ACME_CORP: by_command, GLOBEX_INC: by_call})


@pytest.mark.fleet
@pytest.mark.timeout(1500)
def test_postgres_is_gone_for_ten_seconds_in_the_middle_of_a_run(playing: Playing) -> None:
    over = days(FIRST + timedelta(7), 1)
    parts, _ = playing
    deployment = parts.deployment

    backfill = deployment.backfill(keys(ACME_CORP, over))
    parts.going_on(backfill)
    with without_postgres(parts.socket):
        sleep(10)

    def is_itself_again() -> bool:
        with suppress(OSError):  # 500: each of the webserver's pools finds out by using a connection that has ended
            return bool(deployment.runs_of(backfill) and deployment.ask.companies())
        return False

    eventually(is_itself_again, "the webserver answers")
    assert deployment.ended(backfill, 1200) == "COMPLETED_SUCCESS"
    parts.await_health("code", "webserver", "gateway", "daemon")

    def by_another() -> bool:
        return deployment.ended(deployment.backfill(keys(ACME_CORP, over)), 200) == "COMPLETED_SUCCESS"

    assert_exact(playing, over, {ACME_CORP: by_another})
