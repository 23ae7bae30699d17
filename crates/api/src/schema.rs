//! Schemas of the OpenAPI document that no derive can make, and the wire form of times.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use sandbar_control::access::Role;
use sandbar_control::hosts::Stay;
use sandbar_types::{
    Arch, BuildStatus, ErrorCode, LogLevel, MetricsRange, SandboxStatus, StatsRange, TemplateKind, VmmKind,
};
use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

/// A moment: RFC 3339 with microseconds, in UTC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timestamp(pub(crate) DateTime<Utc>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples(["2026-11-22T04:33:12.345678Z"])
            .into()
    }
}

impl ToSchema for Timestamp {
    fn name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> RefOr<Schema> {
    let words: Vec<&str> = words.into_iter().collect();
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(words)).into()
}

/// All error codes.
pub(crate) fn error_code() -> RefOr<Schema> {
    words(ErrorCode::ALL.iter().map(|code| code.as_str()))
}

/// All states of a sandbox.
pub(crate) fn sandbox_status() -> RefOr<Schema> {
    words(SandboxStatus::ALL.iter().map(|status| status.as_str()))
}

/// What a person is in a team.
pub(crate) fn role() -> RefOr<Schema> {
    words([Role::Owner, Role::Admin, Role::Member].map(Role::as_str))
}

/// Whose sandboxes a host takes.
pub(crate) fn host_kind() -> RefOr<Schema> {
    words(["regular", "byoc"])
}

/// Why a sandbox stays on a host that drains.
pub(crate) fn stay() -> RefOr<Schema> {
    words(Stay::ALL.map(Stay::as_str))
}

/// What a template holds.
pub(crate) fn template_kind() -> RefOr<Schema> {
    words([TemplateKind::Base, TemplateKind::Snapshot].map(TemplateKind::as_str))
}

/// Where a build stands.
pub(crate) fn build_status() -> RefOr<Schema> {
    words(BuildStatus::ALL.map(BuildStatus::as_str))
}

/// A host's processors.
pub(crate) fn arch() -> RefOr<Schema> {
    words([Arch::X86_64, Arch::Aarch64].map(Arch::as_str))
}

/// What a host runs sandboxes on.
pub(crate) fn vmm() -> RefOr<Schema> {
    words([VmmKind::Firecracker, VmmKind::Qemu].map(VmmKind::as_str))
}

/// How far back figures go.
pub(crate) fn metrics_range() -> RefOr<Schema> {
    words(MetricsRange::ALL.map(MetricsRange::as_str))
}

/// How much an entry of a log matters.
pub(crate) fn log_level() -> RefOr<Schema> {
    words(LogLevel::ALL.map(LogLevel::as_str))
}

/// How far back a team's figures go.
pub(crate) fn stats_range() -> RefOr<Schema> {
    words(StatsRange::ALL.map(StatsRange::as_str))
}

/// The refusals that these codes stand for, by status.
fn refusals(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.http_status().to_string()).or_default().push(code.as_str());
    }
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error"))).build();
            let response = ResponseBuilder::new()
                .description(format!("`{}`", codes.join("`, `")))
                .content("application/json", content)
                .build();
            (status, RefOr::T(response))
        })
        .collect()
}

macro_rules! refusal_sets {
    ($($(#[$doc:meta])* $name:ident = [$($code:ident),* $(,)?];)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                refusals(&[$(ErrorCode::$code),*])
            }
        }
    )*};
}

refusal_sets! {
    /// Making a sandbox.
    CreateRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, InvalidState, Conflict, TooLarge, RateLimited,
        InternalError, Unavailable, AgentError, HostUnavailable, NoHostsAvailable, Timeout,
    ];
    /// Making a snapshot.
    SnapshotRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, InvalidState, Conflict, AlreadyExists, NameReserved, TooLarge,
        RateLimited, InternalError, Unavailable, AgentError, HostUnavailable, NoHostsAvailable, Timeout,
    ];
    /// Asking for a build, and ending one.
    BuildRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, InvalidState, NameReserved, TooLarge, RateLimited,
        InternalError, Unavailable,
    ];
    /// Looking at what is in the database.
    ReadRefusals = [InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, RateLimited, InternalError, Unavailable];
    /// Acting on a sandbox through its host.
    ActRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, InvalidState, Conflict, TooLarge, RateLimited,
        InternalError, Unavailable, AgentError, HostUnavailable, NoHostsAvailable, Timeout,
    ];
    /// Writing a file of a sandbox.
    WriteRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, InvalidState, Conflict, PreconditionFailed, TooLarge,
        RateLimited, InternalError, AgentError, HostUnavailable, NoHostsAvailable, Timeout,
    ];
    /// Signing in, and what people do with their accounts, teams and keys.
    PeopleRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, Conflict, AlreadyExists, EmailTaken, TooLarge,
        RateLimited, InternalError, Unavailable,
    ];
    /// Making and deleting volumes.
    VolumeRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, InvalidState, Conflict, AlreadyExists, TooLarge, RateLimited,
        InternalError, Unavailable, AgentError, HostUnavailable, NoHostsAvailable, Timeout,
    ];
    /// The same, where another provider is asked.
    OAuthRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, Conflict, AlreadyExists, EmailTaken, TooLarge,
        RateLimited, InternalError, Unavailable, AgentError,
    ];
    /// What people do with hosts.
    FleetRefusals = [
        InvalidRequest, Unauthorized, NoTeam, Forbidden, NotFound, Conflict, HostHasSandboxes, TooLarge, RateLimited,
        InternalError, Unavailable, HostUnavailable,
    ];
    /// What hosts ask.
    HostRefusals = [InvalidRequest, Unauthorized, Forbidden, NotFound, TooLarge, RateLimited, InternalError, Unavailable];
    /// Asking whether the platform is ready.
    ReadinessRefusals = [Unavailable, NoHostsAvailable];
}
