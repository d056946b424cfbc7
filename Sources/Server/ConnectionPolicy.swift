/// How many connections a peer may have and how long they live. Times are nanoseconds; 0 is never.
package struct ConnectionPolicy: Sendable {
  /// Connections of one peer: an address of IPv4, or a /64 of IPv6.
  package var perPeerMax = Int.max
  /// Connections begin with a header of the PROXY protocol, version 2, and count as those of the client that
  /// it names. For ports that only proxies reach: whoever writes the header may name anybody.
  package var readsProxyHeaders = false
  /// Peers on the machine itself are not counted: proxies are such, and attackers hardly.
  package var exemptsLoopback = true
  /// After how long a connection is ended in an orderly way; a tenth more or less of it for each, so that
  /// those that came together do not go together.
  package var ageNanoseconds: Int64 = 0
  /// What calls have from then on until they are cut off.
  package var ageGraceNanoseconds: Int64 = 0
  /// After how long without a call it is ended in an orderly way.
  package var idleNanoseconds: Int64 = 0
  /// After how long a silent peer is sent a PING.
  package var keepaliveNanoseconds: Int64 = 0
  /// And how long it has then to say anything.
  package var keepaliveTimeoutNanoseconds: Int64 = 0

  package init() {}
}
