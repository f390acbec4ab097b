// Document ids and the tokens of subjects that stand for them. From fold 2 on, an id may hold any printable Unicode.

export const NAME_CHARS_MAX = 128;
export const NAME = new RegExp(`^[A-Za-z0-9_\\-:=@+~]{1,${NAME_CHARS_MAX}}$`);

/** Controls, spaces but the usual one, formats that show nothing, surrogates, private use, and what is no character. */
const UNPRINTABLE = new RegExp(
  "[\\x00-\\x1f\\x7f-\\xa0\\xad\\u061c\\u1680\\u180e\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufeff\\ufff9-\\ufffb" +
    "\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}\\ud800-\\uf8ff\\ufdd0-\\ufdef\\u{f0000}-\\u{10ffff}" +
    Array.from({ length: 15 }, (_, plane) => `\\u{${plane.toString(16)}fffe}\\u{${plane.toString(16)}ffff}`).join("") +
    "]",
  "u",
);

/** Return the id that a token stands for under a fold number; undefined where it stands for none. */
export function documentOf(token, number) {
  if (NAME.test(token)) return token;
  if (number < 2n || token.length > NAME_CHARS_MAX || !/^(?:[A-Za-z0-9_\-:=@+~]|%[0-9A-F]{2})+$/.test(token)) return undefined;
  let document;
  try {
    document = decodeURIComponent(token);
  } catch {
    return undefined;
  }
  if (UNPRINTABLE.test(document) || document === "." || document === "..") return undefined;
  // There is one token for each id: any other escaping is none.
  return tokenOf(document) === token ? document : undefined;
}

/** Return the token of a document id: what is not plain is percent-escaped UTF-8. */
function tokenOf(document) {
  const escape = (byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  return Array.from(Buffer.from(document), (byte) => {
    const character = String.fromCharCode(byte);
    return NAME.test(character) ? character : escape(byte);
  }).join("");
}
