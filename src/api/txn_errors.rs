//! What a transaction coordinator's refusal is called on the wire, by API and version.
//!
//! Owner: nobody; pure. Spec: KIP-588 (PRODUCER_FENCED for clients that know it), KIP-890 (TRANSACTION_ABORTABLE).
//! It must not decide anything.

use kafka_protocol::ResponseError;

use crate::coordinator::txn_state::TxnError;

/// The code of `error`; clients of old versions know a fenced producer by its epoch (`knows_fenced` false).
pub(super) fn code(error: TxnError, knows_fenced: bool) -> i16 {
    let error = match error {
        TxnError::InvalidRequest => ResponseError::InvalidRequest,
        TxnError::InvalidTimeout => ResponseError::InvalidTransactionTimeout,
        TxnError::UnknownProducer => ResponseError::InvalidProducerIdMapping,
        TxnError::Fenced if knows_fenced => ResponseError::ProducerFenced,
        TxnError::Fenced => ResponseError::InvalidProducerEpoch,
        TxnError::Concurrent => ResponseError::ConcurrentTransactions,
        TxnError::InvalidState => ResponseError::InvalidTxnState,
        TxnError::NotInTransaction => ResponseError::TransactionAbortable,
        TxnError::Loading => ResponseError::CoordinatorLoadInProgress,
        TxnError::NotAvailable => ResponseError::CoordinatorNotAvailable,
    };
    error.code()
}

/// The code for a produce request of `version`: what its sender should do about a batch that was not let in.
pub(super) fn produce_code(error: TxnError, version: i16) -> i16 {
    /// Produce versions whose clients know TRANSACTION_ABORTABLE.
    const ABORTABLE_SINCE: i16 = 11;
    /// Produce versions whose first batch makes a partition part of the transaction.
    const IMPLICIT_SINCE: i16 = 12;
    let error = match error {
        TxnError::Fenced => ResponseError::InvalidProducerEpoch,
        TxnError::UnknownProducer => ResponseError::InvalidProducerIdMapping,
        TxnError::Concurrent if version >= IMPLICIT_SINCE => ResponseError::ConcurrentTransactions,
        // Retriable, and known to every client.
        TxnError::Concurrent | TxnError::Loading | TxnError::NotAvailable => ResponseError::NotEnoughReplicas,
        _ if version >= ABORTABLE_SINCE => ResponseError::TransactionAbortable,
        _ => ResponseError::InvalidTxnState,
    };
    error.code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_codes_that_their_version_knows() {
        assert_eq!((code(TxnError::Fenced, true), code(TxnError::Fenced, false)), (90, 47));
        assert_eq!(code(TxnError::Concurrent, true), 51);
        let produce = |error| [9, 11, 12].map(|version| produce_code(error, version));
        assert_eq!(produce(TxnError::NotInTransaction), [48, 120, 120]);
        assert_eq!(produce(TxnError::Concurrent), [19, 19, 51]);
        assert_eq!(produce(TxnError::Fenced), [47, 47, 47]);
    }
}
