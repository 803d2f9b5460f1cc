/* What happens on a Cortex-M7 before main: the FPU is switched on, data is copied, the rest is zero. Files and
 * printf go to the host by semihosting. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern uint8_t data_begin[], data_end[], data_stored[], bss_begin[], bss_end[], stack_top[];
void initialise_monitor_handles(void);
int main(void);
void start(void);

static void stuck(void)
{
    abort(); /* a fault: the emulator ends with a status that is not 0 */
}

void start(void)
{
    volatile uint32_t *const coprocessors = (volatile uint32_t *)0xE000ED88;

    *coprocessors |= 0xFu << 20;
    __asm volatile("dsb\n\tisb");
    memcpy(data_begin, data_stored, (size_t)(data_end - data_begin));
    memset(bss_begin, 0, (size_t)(bss_end - bss_begin));
    initialise_monitor_handles();
    exit(main());
}

__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*handlers[7])(void);
} vectors = {stack_top, {start, stuck, stuck, stuck, stuck, stuck, stuck}};

void _init(void);
void _fini(void);
void _init(void) {}
void _fini(void) {}
