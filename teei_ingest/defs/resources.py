"""Resources: settings, credentials, HTTP, store, landing, and what a step makes of them together.

Each can be replaced in a test, all in one place: `build(…)` in `defs/build.py`. What they do is done elsewhere.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from teei_ingest.companies import Companies, Company, load_companies
from teei_ingest.defs import partitions
from teei_ingest.defs.jobs import streams_of_job
from teei_ingest.defs.processes import executing
from teei_ingest.errors import TeeiError
from teei_ingest.extract.ahead import Ahead
from teei_ingest.extract.http import Source
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.mapping.decode import Page
from teei_ingest.mapping.plan import plan
from teei_ingest.pipeline.days import Window
from teei_ingest.pipeline.ingest import Ingest, Places, Started
from teei_ingest.privacy.policies import remember
from teei_ingest.redact.policy import policy_for
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import SystemCredentials, refuse_common_accounts, renewed, resolve
from teei_ingest.vault.files import remove_dead
from teei_ingest.vault.keys import KeyRing

_Ingest = TypeVar("_Ingest", bound=Ingest)
T = TypeVar("T")


class SettingsResource(dg.ConfigurableResource[Any]):
    """Settings and the registry of companies; `overrides` replaces variables of the environment."""

    overrides: dict[str, str] = Field(default_factory=dict)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Every step needs the settings; as long as it does, this process is the one that carries out the run."""
        with ExitStack() as stack:
            if context.run is not None and context.instance is not None:
                stack.enter_context(executing(context.instance, context.run.run_id))
            yield self

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process; with overrides, `.env` is not read."""
        return Settings.load({**os.environ, **self.overrides}) if self.overrides else Settings.load()

    @cached_property
    def companies(self) -> Companies:
        """The registry, checked for accounts that two companies share."""
        companies = load_companies(self.settings)
        refuse_common_accounts(self.settings, companies)
        return companies


def or_reason(work: Callable[[], T]) -> T | dg.SkipReason:
    """What `work` gives, or why it cannot, without the cause, which Dagster would keep in its database."""
    try:
        return work()
    except TeeiError as error:
        reason = str(error)
    return dg.SkipReason(reason)


class CredentialsResource(dg.ConfigurableResource[Any]):
    """Credentials by company and system; raises before any request if one is missing."""

    settings: dg.ResourceDependency[SettingsResource]

    def get(self, company: str, system: str) -> SystemCredentials:
        """What the company's requests to a system need."""
        companies = self.settings.companies
        return resolve(self.settings.settings, companies, companies.get(company), system)

    def renewed(self, company: str, system: str) -> SystemCredentials:
        """The same, read anew where it was remembered."""
        companies = self.settings.companies
        return renewed(self.settings.settings, companies, companies.get(company), system)


class HttpResource(dg.ConfigurableResource[Any]):
    """HTTP clients, one for each company and system in a run, with its session, token and quota.

    `page_size` asks for smaller pages than the systems allow.
    """

    settings: dg.ResourceDependency[SettingsResource]
    credentials: dg.ResourceDependency[CredentialsResource]
    page_size: int | None = None

    _typed_at: float | None = PrivateAttr(default=None)
    _page_size: int | None = PrivateAttr(default=None)
    _sources: dict[tuple[str, str], Source] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        tags = context.run.tags if context.run is not None else {}
        self._typed_at = partitions.typed_at(tags)
        self._page_size = partitions.page_size(tags)

    @property
    def wanted_page(self) -> int | None:
        """Records a page that this run asks for; None is as many as the system allows."""
        return self._page_size or self.page_size

    def source(self, company: str, system: str) -> Source:
        """The client of a company for a system; its streams share it."""
        with self._lock:
            if (company, system) not in self._sources:
                self._sources[company, system] = self.open(company, system)
            return self._sources[company, system]

    def open(self, company: str, system: str, **options: Any) -> Source:
        """A client of its own; `options` are Source's: the place where a test gives it another clock."""
        given = all_systems()[system], self.credentials.get(company, system), self.settings.settings
        options.setdefault("again", lambda: self.credentials.renewed(company, system))
        return Source(*given, typed_at=self._typed_at, **options)

    def close(self) -> None:
        """Close the connections."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()


class StoreResource(dg.ConfigurableResource[Any]):
    """The event tables."""

    settings: dg.ResourceDependency[SettingsResource]

    @cached_property
    def store(self) -> Store:
        """Delta tables by contract, created where they are missing; leftovers of dead attempts are swept first."""
        store = open_store(self.settings.settings)
        store.sweep()
        return store


class LandingResource(dg.ConfigurableResource[Any]):
    """Sealed files: what a stream leaves for its events, and what broke its contract."""

    settings: dg.ResourceDependency[SettingsResource]

    @cached_property
    def landing(self) -> Landing:
        """What streams left; leftovers of dead attempts are swept first."""
        settings = self.settings.settings
        remove_dead(settings.home, besides=(Path(settings.store_uri), settings.dagster_home))
        landing = Landing(settings)
        landing.sweep()
        return landing

    @cached_property
    def quarantine(self) -> Quarantine:
        """Bad records, sealed."""
        quarantine = Quarantine(self.settings.settings)
        quarantine.sweep()
        return quarantine


class IngestResource(dg.ConfigurableResource[Any]):
    """One stream of one company at work. When a run begins, all its streams begin to read side by side."""

    settings: dg.ResourceDependency[SettingsResource]
    credentials: dg.ResourceDependency[CredentialsResource]
    http: dg.ResourceDependency[HttpResource]
    store: dg.ResourceDependency[StoreResource]
    landing: dg.ResourceDependency[LandingResource]

    _ahead: Ahead[Page] | None = PrivateAttr(default=None)
    _started: dict[str, tuple[Window, Started]] = PrivateAttr(default_factory=dict)
    _known: dict[tuple[str, str], Ingest] = PrivateAttr(default_factory=dict)
    _rings: dict[str, KeyRing] = PrivateAttr(default_factory=dict)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        run = context.run
        asked = partitions.requested(run.tags) if run is not None else None
        if run is None or asked is None:
            return
        company, first, last = asked
        names = streams_of(run)
        if len(names) > 1:
            self._read_ahead(names, company, Window(first, last), run.run_id)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._started.clear()
        self._known.clear()
        self._rings.clear()
        self.http.close()

    def ingest(self, stream: str, slug: str, run_id: str) -> Ingest:
        """Raises what is wrong with settings, registry or credentials."""
        if (stream, slug) not in self._known:
            self._known[stream, slug] = self.made(Ingest, stream, slug, run_id)
        return self._known[stream, slug]

    def made(self, kind: type[_Ingest], stream: str, slug: str, run_id: str) -> _Ingest:
        """An Ingest of this kind. Raises as `ingest`."""
        declared, settings = all_streams()[stream], self.settings.settings
        company = self.settings.companies.get(slug)
        credentials = self.credentials.get(slug, declared.system)
        policy = policy_for(slug, company.privacy, company.places)
        remember(settings, slug, policy)
        return kind(
            plan(stream),
            company,
            getattr(credentials, all_systems()[declared.system].tenant),
            Places(settings, self.store.store, self.landing.landing, self.landing.quarantine),
            self._ring(company),
            policy,
            lambda: self.http.source(slug, declared.system),
            run_id=run_id,
            page_size=self.http.wanted_page,
        )

    def _ring(self, company: Company) -> KeyRing:
        """The company's keys; new ones only as long as no event of it was made with others."""
        if company.slug not in self._rings:
            store = self.store.store
            self._rings[company.slug] = KeyRing.open(
                self.settings.settings, company, create=lambda: not store.holds(company.slug)
            )
        return self._rings[company.slug]

    def started(self, stream: str, window: Window) -> Started | None:
        """The reading that began with the run, if it is of this window; it can be taken once."""
        found = self._started.pop(stream, None)
        return found[1] if found and found[0] == window else None

    def _read_ahead(self, names: list[str], company: str, window: Window, run_id: str) -> None:
        begin: dict[str, Any] = {}
        for name in names:
            try:
                begun = self.ingest(name, company, run_id).start_later(window)
            except TeeiError:
                continue  # its own step will say so
            begin[name] = begun.begin
            self._started[name] = (window, begun)
        self._ahead = Ahead(begin)
        for name, (_, begun) in self._started.items():
            begun.pages = self._ahead.pages(name)


def streams_of(run: dg.DagsterRun, *, events: bool = False) -> list[str]:
    """The streams that a run fetches, with `events` also those whose events alone it makes; else the job's."""
    if not run.asset_selection:  # None, or empty where `execute_in_process` made the run
        return streams_of_job(run.job_name)
    chosen = {key.to_user_string() for key in run.asset_selection}
    return [one.name for one in all_streams().values() if one.name in chosen or (events and one.events in chosen)]
