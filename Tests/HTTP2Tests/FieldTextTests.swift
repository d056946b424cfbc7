// Which bytes fields may have, against libnghttp2's rules.
import CNGHTTP2
import HTTP2
import Testing

@Suite struct FieldTextTests {
  private func texts(_ byte: UInt8) -> [[UInt8]] {
    [[byte], [97, byte], [byte, 97], [97, byte, 97]]
  }

  @Test func everyByte() {
    for byte in UInt8.min...UInt8.max {
      for text in texts(byte) {
        let count = text.count
        let path = unsafe nghttp2_check_path(text, count) != 0
        #expect(FieldText.isVisible(text.span) == path)
        let method = unsafe nghttp2_check_method(text, count) != 0
        #expect(FieldText.isToken(text.span) == method)
        // A colon in front is that of a pseudo-header field, which is looked at elsewhere.
        if text[0] != 0x3a {
          let name = unsafe nghttp2_check_header_name(text, count) != 0
          #expect(FieldText.isName(text.span) == name)
        }
        let trimmed = Array(text[FieldText.trimmed(text.span)])
        let value = unsafe nghttp2_check_header_value_rfc9113(trimmed, trimmed.count) != 0
        #expect(FieldText.isValue(trimmed.span) == value)
        if trimmed.count == count { #expect(FieldText.isValue(text.span) == value) }
      }
    }
    let empty: [UInt8] = []
    #expect(!FieldText.isName(empty.span) && !FieldText.isToken(empty.span))
    #expect(FieldText.isValue(empty.span) && FieldText.isVisible(empty.span))
  }

  @Test(arguments: [
    ("", ""), (" ", ""), (" \t ", ""), ("a", "a"), (" a", "a"), ("a\t", "a"), ("\t a b \t", "a b"),
  ]) func blanksAtTheEnds(text: String, trimmed: String) {
    let bytes = Array(text.utf8)
    #expect(Array(bytes[FieldText.trimmed(bytes.span)]) == Array(trimmed.utf8))
  }
}
