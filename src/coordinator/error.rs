//! Why a coordinator refuses something; `api` turns it into Kafka's codes.
//!
//! Owner: nobody. Invariant: one variant per error a client can tell apart. It must not carry text: the codes say
//! it all.

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The coordinator is reading its log.
    #[error("the coordinator is loading")]
    Loading,
    /// The coordinator cannot answer now; ask again.
    #[error("the coordinator is not available")]
    NotAvailable,
    /// The coordinator is not here (any more).
    #[error("not the coordinator")]
    NotCoordinator,
    /// The request had no group id, or one that cannot be.
    #[error("invalid group id")]
    InvalidGroupId,
    /// No group of that name.
    #[error("no such group")]
    GroupNotFound,
    /// The group has members.
    #[error("the group is not empty")]
    NonEmpty,
    /// The group is subscribed to the topic.
    #[error("the group is subscribed to the topic")]
    Subscribed,
    /// No such member.
    #[error("unknown member")]
    UnknownMember,
    /// The member must join again with the id it was given.
    #[error("a member id is required")]
    MemberIdRequired,
    /// Another member has that instance id now.
    #[error("fenced instance id")]
    FencedInstance,
    /// A member with that instance id is there (KIP-848).
    #[error("unreleased instance id")]
    UnreleasedInstance,
    /// An old or impossible generation.
    #[error("illegal generation")]
    IllegalGeneration,
    /// Protocol type or protocols do not fit the group.
    #[error("inconsistent protocol")]
    InconsistentProtocol,
    /// Session time-out out of bounds.
    #[error("invalid session time-out")]
    InvalidSessionTimeout,
    /// A rebalance is under way; join again.
    #[error("rebalance in progress")]
    RebalanceInProgress,
    /// Too many members.
    #[error("the group is full")]
    GroupFull,
    /// Too much metadata with an offset.
    #[error("metadata too large")]
    MetadataTooLarge,
    /// The member's epoch is not the coordinator's (KIP-848).
    #[error("fenced member epoch")]
    FencedEpoch,
    /// The member's epoch is old (KIP-848).
    #[error("stale member epoch")]
    StaleEpoch,
    /// An assignor that is not served.
    #[error("unsupported assignor")]
    UnsupportedAssignor,
    /// A request that contradicts itself.
    #[error("invalid request")]
    InvalidRequest,
    /// A regular expression that cannot be used.
    #[error("invalid regular expression")]
    InvalidRegex,
    /// A transaction has the offset in hand.
    #[error("unstable offset")]
    Unstable,
    /// The topic or partition is not there.
    #[error("unknown topic or partition")]
    UnknownPartition,
    /// There is no topic of that id.
    #[error("no topic has this id")]
    UnknownTopicId,
    /// The record could not be made durable.
    #[error("the record could not be stored")]
    Storage,
}
