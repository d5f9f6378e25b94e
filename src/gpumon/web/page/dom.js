// Elements made and changed: nothing is touched that already is as it should be.

/** Make an element. Attributes that are null or false are left out; children are nodes or texts. */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Let an element hold one text. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Give an element an attribute; null takes it away. */
export function mark(node, name, value) {
  if (value === null) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== value) {
    node.setAttribute(name, value);
  }
}

/** Show an element or not. */
export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/**
 * Let a parent hold one element per item, in their order. What stays is kept, with focus and scroll position.
 * `key` gives an item's name, `build` its element, which gets a function `update(item)`.
 */
export function keep(parent, items, key, build) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let node = old.get(name);
    if (node) {
      old.delete(name);
    } else {
      node = build(item);
      node.dataset.key = name;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
    node.update(item);
  }
  for (const node of old.values()) node.remove();
}

export const find = (id) => document.getElementById(id);
