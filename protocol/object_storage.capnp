@0xa6c84e1d20b75f93;
# The headers of the object storage protocol. SPEC section 7. How they are framed: SPEC section 7.3.

struct ObjectID {
  # The 32 bytes of an object id as four big-endian 64-bit numbers.
  field0 @0 :UInt64;   # bytes 0 to 7 of the id
  field1 @1 :UInt64;   # bytes 8 to 15
  field2 @2 :UInt64;   # bytes 16 to 23
  field3 @3 :UInt64;   # bytes 24 to 31
}

struct ObjectRequestHeader {
  # Client, worker or scheduler to object storage; every request gets one ObjectResponseHeader.
  objectID @0 :ObjectID;               # which object
  payloadLength @1 :UInt64;            # of what follows; for getObject: how much is wanted, 2^64-1 for all
  requestID @2 :UInt64;                # chosen by the requester, comes back as responseID
  requestType @3 :ObjectRequestType;   # what is asked

  enum ObjectRequestType {
    setObject @0;           # payload follows; answered by setOK; replaces what was there
    getObject @1;           # answered by getOK, as soon as the object exists
    deleteObject @2;        # answered by delOK or delNotExists
    duplicateObjectID @3;   # payload: the source's ObjectID; answered by duplicateOK, once the source exists
    infoGetTotal @4;        # objectID all zero; answered by infoGetTotalOK
  }
}

struct ObjectResponseHeader {
  # Object storage to requester.
  objectID @0 :ObjectID;                 # as in the request
  payloadLength @1 :UInt64;              # the payload message is there only when this is above 0
  responseID @2 :UInt64;                 # the request's requestID
  responseType @3 :ObjectResponseType;   # what happened

  enum ObjectResponseType {
    setOK @0;            # stored
    getOK @1;            # the content follows, unless it is empty
    delOK @2;            # deleted
    delNotExists @3;     # there was nothing to delete
    duplicateOK @4;      # the new id has the source's content
    infoGetTotalOK @5;   # six little-endian UInt64, see ObjectManagerStatus.ObjectStorageStatus
  }
}
