//! Reason codes of refused requests, and what follows from each.
//!
//! Invariant: every code has a consequence; one that is not known costs the record and nothing else.

/// What whoever asked has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Ask again later: the server expects to be able to do it.
    Retry,
    /// Ask again on a new session.
    NewSession,
    /// Create the topic first.
    NoSuchTopic,
    /// The topic is there, but is not what was to be created.
    OtherSpecification,
    /// The topic path is none.
    InvalidPath,
    /// Nothing can make this request succeed.
    Refused,
    /// Nothing can make any request of its kind succeed: somebody has to change something first.
    Stop(&'static str),
}

/// What follows from a code.
pub fn consequence(code: i32) -> Consequence {
    use Consequence::*;
    match code {
        100 | 101 => NewSession,
        102 | 110 | 112 | 9011 => Retry,
        104 => Stop("the server does not know a service that this client needs: it has to be version 6.9 or later"),
        202 | 9005 => InvalidPath,
        503 | 9000 => NoSuchTopic,
        9004 => OtherSpecification,
        9006 => Stop("the server refuses the topic properties: correct `topic_properties` of the sink"),
        9007 => Stop("the licence of the server allows no more topics: remove topics, or extend the licence"),
        _ => Refused,
    }
}

/// A code in words.
pub fn name(code: i32) -> &'static str {
    match code {
        100 => "communication failure",
        101 => "session closed",
        102 => "request timed out",
        103 => "access denied",
        104 => "unsupported service",
        105 => "application callback failed",
        106 => "invalid data",
        107 => "no such session",
        108 => "incompatible data type",
        109 => "message not handled",
        110 => "cluster is repartitioning",
        111 => "topic is managed by another component",
        112 => "cluster routing failed",
        200 => "registration conflict",
        201 => "handler conflict",
        202 => "invalid path",
        500 => "update does not fit the topic type",
        501 => "update failed, the content may be incompatible",
        503 | 9000 => "no such topic",
        505 => "delta without a value",
        9001 => "not a time series",
        9002 => "no such event",
        9003 => "rejected by the recipient",
        9004 => "topic exists with another specification",
        9005 => "invalid topic path",
        9006 => "invalid topic specification",
        9007 => "licence limit on topics",
        9010 => "topic exists and may not be managed",
        9011 => "unexpected failure while adding",
        9012 => "constraint not satisfied",
        9013 => "invalid update stream",
        9014 => "JSON patch cannot be parsed",
        9015 => "JSON patch cannot be applied",
        9016 => "remote server exists",
        9017 => "invalid branch mapping",
        _ => "unknown reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_protocol_has_a_name_and_a_consequence() {
        use Consequence::*;
        let of = |codes: &[i32], expected: Consequence| {
            for code in codes {
                assert_eq!(consequence(*code), expected, "{code}");
                assert_ne!(name(*code), "unknown reason", "{code}");
            }
        };
        of(&[100, 101], NewSession);
        of(&[102, 110, 112, 9011], Retry);
        of(&[503, 9000], NoSuchTopic);
        of(&[202, 9005], InvalidPath);
        of(&[9004], OtherSpecification);
        of(&[103, 105, 106, 107, 108, 109, 111, 200, 201, 500, 501, 505], Refused);
        of(&[9001, 9002, 9003, 9010, 9012, 9013, 9014, 9015, 9016, 9017], Refused);
        for code in [104, 9006, 9007] {
            assert!(matches!(consequence(code), Stop(_)), "{code}");
        }
        assert_eq!((consequence(777), name(777)), (Refused, "unknown reason"));
    }
}
